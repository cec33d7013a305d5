package damage

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/virtbackup/virtbackup/backup"
	"github.com/virtbackup/virtbackup/backup/plan"
	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/source"
	"github.com/virtbackup/virtbackup/source/pull"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// spoilLater corrupts reads of the images of a point: of each 64 KiB, those from the second
// to the given last one.
func spoilLater(s *testsite.Site, p manifest.Manifest, last int) {
	s.T.Helper()
	const unit = 64 << 10
	type place struct {
		path   string
		offset int64
	}
	var mu sync.Mutex
	reads := map[place]int{}
	spoil := func(path string, offset int64, data []byte) {
		if !strings.HasPrefix(path, s.Repo+"/"+s.Name+"/"+p.ID+"/") || !strings.HasSuffix(path, ".qcow2") {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for at := int64(0); at < int64(len(data)); at += unit {
			where := place{path, (offset + at) / unit}
			if reads[where]++; reads[where] >= 2 && reads[where] <= last {
				data[at] ^= 0x20
			}
		}
	}
	directio.OnRead.Store(&spoil)
	s.T.Cleanup(func() { directio.OnRead.Store(nil) })
}

// backUpHere makes a point in this process.
func backUpHere(s *testsite.Site, ctx context.Context, request backup.Request) (backup.Result, error) {
	s.T.Helper()
	conn, err := hypervisor.Connect("qemu:///system")
	if err != nil {
		s.T.Fatal(err)
	}
	defer conn.Close()
	const dir = guest.DefaultRunDir
	request.Domain, request.ScratchDir, request.SocketDir = s.Name, dir, dir
	truth := s.Truths()
	result, err := backup.Run(ctx, backup.Deps{
		Host: guest.Libvirt(conn), Repository: s.Repo,
		Source: func(d *guest.LockedDomain, o source.Options, warn func(string)) backup.Source {
			return pull.New(d, o, warn)
		},
	}, request)
	if err == nil {
		s.Points = append(s.Points, testsite.Point{Manifest: result.Point, Truth: truth})
	}
	return result, err
}

// The images that a disk, or its tail, is compared with are read correctly before the job,
// and wrongly during it. If that happens once, they are read again, and the point is right.
// If it happens every time, the rescan fails and leaves nothing behind, and the next run
// goes on.
func TestMisreadsInABackup(t *testing.T) {
	s := testsite.Filled(t)
	first := s.BackUp(0, "full").Point

	s.Crash(2)
	spoilLater(s, first, 2)
	rescan, err := backUpHere(s, t.Context(), backup.Request{Wanted: plan.Wanted{Kind: manifest.KindInc}})
	if err != nil {
		t.Fatal(err)
	}
	testsite.WantKinds(t, rescan.Point, "vda rescan, vdb rescan")
	for _, disk := range []string{"vda", "vdb"} {
		testsite.WantSaid(t, rescan.Warnings, first.ID+"/"+disk+".qcow2 (disk "+disk+"): 65536 bytes at offset ")
	}
	testsite.WantSmall(t, rescan, "vda")

	s.Crash(3)
	spoilLater(s, first, 1<<30)
	before := s.Footprint()
	var damaged *damage.Error
	if _, err := backUpHere(s, t.Context(), backup.Request{Wanted: plan.Wanted{Kind: manifest.KindInc}}); !errors.As(err, &damaged) || !strings.Contains(err.Error(), first.ID) {
		t.Errorf("got %v, want damage in %s", err, first.ID)
	}
	if after := s.Footprint(); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
	directio.OnRead.Store(nil)
	testsite.WantKinds(t, s.BackUp(3, "inc").Point, "vda rescan, vdb rescan")

	s.WriteAll(4)
	spoilLater(s, first, 2)
	if _, err := backUpHere(s, t.Context(), backup.Request{Wanted: plan.Wanted{Kind: manifest.KindInc}}); err != nil {
		t.Error(err)
	}
	directio.OnRead.Store(nil)
	s.Check()
}
