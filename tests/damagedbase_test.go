package tests

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/backup"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

// Damage in the point that a disk would be compared with is not taken for good:
// the disk is copied in full.
func TestRescanOfDamagedPoint(t *testing.T) {
	t.Parallel()
	s := filled(t)
	first := s.backUp(0, "full").Point
	s.writeAll(2)
	second := s.backUp(0, "inc").Point
	s.crash(3)
	flip(t, s.image(first, "vda"), 9<<20)
	inc := s.backUp(3, "inc")
	wantKinds(t, inc.Point, "vda full, vdb rescan")
	wantSaid(t, inc.Warnings, "disk vda is copied in full, as its image in point check2 cannot be compared with: ")
	wantSaid(t, inc.Point.Warnings, "check1/vda.qcow2")
	if got := disk(t, inc.Point, "vda").Reason; !strings.Contains(got, "missing or broken, and its image in point check2 is damaged") {
		t.Errorf("the reason of vda is %q", got)
	}
	s.crash(4)
	if err := os.Remove(s.image(second, "vdb")); err != nil {
		t.Fatal(err)
	}
	inc = s.backUp(3, "inc")
	wantKinds(t, inc.Point, "vda rescan, vdb full")
	s.points = s.points[3:] // the others are damaged
	s.check()
}

// Damage that verify has found is not built upon, be it in the midst of an image: what
// it calls damaged is read again, and the other disks go on. What has been put right
// since, as from another copy, is gone on with.
func TestIncrementalOnVerifiedDamage(t *testing.T) {
	t.Parallel()
	s := filled(t)
	first := s.backUp(0, "full").Point
	s.writeAll(2)
	s.backUp(0, "inc")
	image := s.image(first, "vda")
	flip(t, image, 9<<20)
	s.program.Must(t, []int{5}, "verify", s.Name)
	s.writeAll(3)
	flip(t, image, 9<<20) // as it was
	wantKinds(t, s.backUp(0, "inc").Point, "vda inc, vdb inc")
	s.writeAll(4)
	// What was found to be sound is not read again every night.
	if r := s.program.Must(t, nil, "inc", s.Name); strings.Contains(r.Stderr, "the last verify found") {
		t.Errorf("read again: %s", r.Stderr)
	}
	s.program.Must(t, nil, "release", s.Name+"@check4", "--points")
	flip(t, image, 9<<20)
	s.program.Must(t, []int{5}, "verify", s.Name)
	s.refused(5, "check1", "inc", s.Name, "--fallback", "fail")
	inc := s.backUp(3, "inc")
	wantKinds(t, inc.Point, "vda full, vdb inc")
	wantSaid(t, inc.Warnings, "disk vda is copied in full, as its image in point check3 is damaged: ")
	s.writeAll(5)
	wantKinds(t, s.backUp(0, "inc").Point, "vda inc, vdb inc")
	s.points = s.points[3:]
	s.check()
}

// A chain that is seen to be broken is not made longer.
func TestIncrementalOnDamagedPoint(t *testing.T) {
	t.Parallel()
	s := filled(t)
	first := s.backUp(0, "full").Point
	s.writeAll(2)
	s.backUp(0, "inc")
	if err := os.Remove(s.image(first, "vda")); err != nil {
		t.Fatal(err)
	}
	s.writeAll(3)
	s.refused(5, "check1", "inc", s.Name, "--fallback", "fail")
	inc := s.backUp(3, "inc")
	wantKinds(t, inc.Point, "vda full, vdb inc")
	wantSaid(t, inc.Warnings, "disk vda is copied in full, as its image in point check2 is damaged: ")
	s.writeAll(4)
	wantKinds(t, s.backUp(0, "inc").Point, "vda inc, vdb inc")
	s.points = s.points[2:]
	s.check()
}

// What keeps a run from reading a sound image for now is no damage of it: the run fails,
// and an incremental is not turned into a full. Here an image of the chain is gone once
// the one above it was read, as it is on a file system that is mounted anew.
func TestTailsThatCannotBeReadNow(t *testing.T) {
	s := filled(t)
	image := s.image(s.backUp(0, "full").Point, "vda")
	for range 9 { // more images than are opened at once, so that the full is not open yet
		s.backUp(0, "inc")
	}
	s.writeAll(3)
	before := s.state()
	s.onImageRead(func(int) { _ = os.Rename(image, image+".away") })
	_, err := s.backUpHere(t.Context(), backup.Request{Kind: manifest.KindInc})
	directio.OnRead.Store(nil)
	if err := os.Rename(image+".away", image); err != nil {
		t.Fatal(err)
	}
	var damaged *repository.DamagedError
	if !errors.Is(err, fs.ErrNotExist) || errors.As(err, &damaged) {
		t.Errorf("got %v, want that a file is missing, and no damage", err)
	}
	if after := s.state(); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
	wantKinds(t, s.backUp(0, "inc").Point, "vda inc, vdb inc")
	s.check()
}

// flip changes one byte of a file.
func flip(t *testing.T, path string, offset int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, offset); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, offset); err != nil {
		t.Fatal(err)
	}
}
