package pull

import (
	"context"
	"errors"
	"testing"

	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/nbdcopy"
	"github.com/virtbackup/virtbackup/source"
)

// shown is a domain that shows a backup job.
type shown struct {
	guest.Domain
	doc string
}

func (d shown) BackupJob() (string, error) { return d.doc, nil }

// A disk is opened with the bitmap that libvirt exports and with where the bitmap ends. Where
// there is none to be had, what has changed is not taken for nothing.
func TestOpen(t *testing.T) {
	s := &Source{
		job: source.Job{Disks: []source.JobDisk{{Target: "vda", Since: "check1", DirtyFrom: 1 << 20}, {Target: "vdb", Since: "check1"}, {Target: "vdc"}}},
		session: guest.NewSession(&guest.LockedDomain{Domain: shown{doc: `<domainbackup mode='pull'><server transport='unix' socket='/s'/><disks>
			<disk name='vdb' backup='yes' exportname='vdb'/>
			<disk name='vda' backup='yes' backupmode='incremental' exportname='a' exportbitmap='backup-vda'/></disks></domainbackup>`}}),
	}
	var got nbdcopy.Source
	errOpened := errors.New("opened")
	s.OpenWith(func(_ context.Context, from nbdcopy.Source) (source.Export, error) {
		got = from
		return nil, errOpened
	})
	for _, tt := range []struct {
		target  string
		changes bool
		want    nbdcopy.Source
		opened  bool
	}{
		{"vda", true, nbdcopy.Source{Socket: "/s", Export: "a", Bitmap: "backup-vda", DirtyFrom: 1 << 20}, true},
		{"vda", false, nbdcopy.Source{Socket: "/s", Export: "a"}, true},
		{"vdb", true, nbdcopy.Source{}, false},  // without a bitmap
		{"vdc", false, nbdcopy.Source{}, false}, // not exported
		{"vdd", false, nbdcopy.Source{}, false}, // not asked for
	} {
		got = nbdcopy.Source{}
		_, err := s.Open(t.Context(), tt.target, tt.changes)
		if got != tt.want || errors.Is(err, errOpened) != tt.opened || err == nil {
			t.Errorf("%s, changes %v: opened %+v, %v", tt.target, tt.changes, got, err)
		}
	}
}
