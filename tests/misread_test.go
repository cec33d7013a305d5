package tests

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/virtbackup/virtbackup/backup"
	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/source"
	"github.com/virtbackup/virtbackup/source/pull"
)

// spoilLater makes the reads of each 64 KiB of the repository's images of a point
// wrong, from the second one on, until the last one that is wrong.
func (s *site) spoilLater(p manifest.Manifest, last int) {
	s.t.Helper()
	const unit = 64 << 10
	type place struct {
		path   string
		offset int64
	}
	var mu sync.Mutex
	reads := map[place]int{}
	spoil := func(path string, offset int64, data []byte) {
		if !strings.HasPrefix(path, s.repo+"/"+s.Name+"/"+p.ID+"/") || !strings.HasSuffix(path, ".qcow2") {
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
	s.t.Cleanup(func() { directio.OnRead.Store(nil) })
}

// backUpHere makes a point in this process.
func (s *site) backUpHere(ctx context.Context, request backup.Request) (backup.Result, error) {
	s.t.Helper()
	conn, err := hypervisor.Connect("qemu:///system")
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	const dir = guest.DefaultRunDir
	request.Domain, request.ScratchDir, request.SocketDir = s.Name, dir, dir
	truth := s.truths()
	result, err := backup.Run(ctx, backup.Deps{
		Host: guest.Libvirt(conn), Repository: s.repo,
		Source: func(d *guest.LockedDomain, o source.Options, warn func(string)) backup.Source {
			return pull.New(d, o, warn)
		},
	}, request)
	if err == nil {
		s.points = append(s.points, truePoint{result.Point, truth})
	}
	return result, err
}

// The images that a disk is compared with, and those that its tail is compared
// with, are read rightly before the job, and wrongly then. Once: they are read
// again, and the point is right. Always: the rescan fails, and nothing is left of
// it; the next run goes on.
func TestMisreadsInABackup(t *testing.T) {
	s := filled(t)
	first := s.backUp(0, "full").Point

	s.crash(2)
	s.spoilLater(first, 2)
	rescan, err := s.backUpHere(t.Context(), backup.Request{Kind: manifest.KindInc})
	if err != nil {
		t.Fatal(err)
	}
	wantKinds(t, rescan.Point, "vda rescan, vdb rescan")
	for _, disk := range []string{"vda", "vdb"} {
		wantSaid(t, rescan.Warnings, first.ID+"/"+disk+".qcow2 (disk "+disk+"): 65536 bytes at offset ")
	}
	wantSmall(t, rescan, "vda")

	s.crash(3)
	s.spoilLater(first, 1<<30)
	before := s.state()
	var damaged *repository.DamagedError
	if _, err := s.backUpHere(t.Context(), backup.Request{Kind: manifest.KindInc}); !errors.As(err, &damaged) || !strings.Contains(err.Error(), first.ID) {
		t.Errorf("got %v, want damage in %s", err, first.ID)
	}
	if after := s.state(); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
	directio.OnRead.Store(nil)
	wantKinds(t, s.backUp(3, "inc").Point, "vda rescan, vdb rescan")

	s.writeAll(4)
	s.spoilLater(first, 2)
	if _, err := s.backUpHere(t.Context(), backup.Request{Kind: manifest.KindInc}); err != nil {
		t.Error(err)
	}
	directio.OnRead.Store(nil)
	s.check()
}
