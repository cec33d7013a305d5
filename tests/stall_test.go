package tests

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/backup"
	"github.com/virtbackup/virtbackup/directio"
	"github.com/virtbackup/virtbackup/repository"
)

// onImageRead calls do with each read of an image of the site's points.
func (s *site) onImageRead(do func()) {
	s.t.Helper()
	read := func(path string, _ int64, _ []byte) {
		if strings.HasPrefix(path, filepath.Join(s.repo, s.Name, "check")) && strings.HasSuffix(path, ".qcow2") {
			do()
		}
	}
	directio.OnRead.Store(&read)
	s.t.Cleanup(func() { directio.OnRead.Store(nil) })
}

// Images of the base that take longer to read than --stall-timeout are no stall, also
// where a damaged hash list, which is harmless, makes a run read a whole image.
func TestSlowReadsOfTheBaseAreNoStall(t *testing.T) {
	s := filled(t)
	first := s.backUp(0, "full").Point
	run := func(name, kinds string) {
		t.Helper()
		s.onImageRead(func() { time.Sleep(150 * time.Millisecond) })
		defer directio.OnRead.Store(nil)
		result, err := s.backUpHere(t.Context(), backup.Request{Kind: repository.KindInc, StallTimeout: 2 * time.Second})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		wantKinds(t, result.Point, kinds)
	}
	s.crash(2)
	run("rescan", "vda rescan, vdb rescan")
	s.crash(3)
	list := filepath.Join(s.repo, s.Name, first.ID, "vda.hashes")
	flip(t, list, 100)
	run("rescan, damaged list", "vda rescan, vdb rescan")
	flip(t, list, 100) // as it was
	s.check()
}
