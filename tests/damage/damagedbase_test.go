package damage

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/backup"
	"github.com/virtbackup/virtbackup/backup/plan"
	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// If the point that a disk would be compared with is damaged, the disk is copied in full.
func TestRescanOfDamagedPoint(t *testing.T) {
	t.Parallel()
	s := testsite.Filled(t)
	first := s.BackUp(0, "full").Point
	s.WriteAll(2)
	second := s.BackUp(0, "inc").Point
	s.Crash(3)
	testsite.Flip(t, s.Image(first, "vda"), 9<<20)
	inc := s.BackUp(3, "inc")
	testsite.WantKinds(t, inc.Point, "vda full, vdb rescan")
	testsite.WantSaid(t, inc.Warnings, "disk vda is copied in full, as it cannot be compared with its image in point check2: ")
	testsite.WantSaid(t, inc.Point.Warnings, "check1/vda.qcow2")
	if got := testsite.DiskOf(t, inc.Point, "vda").Reason; !strings.Contains(got, "missing or broken, and its image in point check2 is damaged") {
		t.Errorf("the reason of vda is %q", got)
	}
	s.Crash(4)
	if err := os.Remove(s.Image(second, "vdb")); err != nil {
		t.Fatal(err)
	}
	inc = s.BackUp(3, "inc")
	testsite.WantKinds(t, inc.Point, "vda rescan, vdb full")
	s.Points = s.Points[3:] // the others are damaged
	s.Check()
}

// No point is based on damage that verify has found, even in the middle of an image: what
// verify calls damaged is read again, and the other disks go on. If it has been repaired
// since, as from another copy, the chain goes on.
func TestIncrementalOnVerifiedDamage(t *testing.T) {
	t.Parallel()
	s := testsite.Filled(t)
	first := s.BackUp(0, "full").Point
	s.WriteAll(2)
	s.BackUp(0, "inc")
	image := s.Image(first, "vda")
	testsite.Flip(t, image, 9<<20)
	s.Program.Must(t, []int{5}, "verify", s.Name)
	s.WriteAll(3)
	testsite.Flip(t, image, 9<<20) // as it was
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc")
	s.WriteAll(4)
	// What was found to be sound is not read again in every run.
	if r := s.Program.Must(t, nil, "inc", s.Name); strings.Contains(r.Stderr, "the last verify found") {
		t.Errorf("read again: %s", r.Stderr)
	}
	s.Program.Must(t, nil, "release", s.Name+"@check4", "--points")
	testsite.Flip(t, image, 9<<20)
	s.Program.Must(t, []int{5}, "verify", s.Name)
	s.Refused(5, "check1", "inc", s.Name, "--fallback", "fail")
	inc := s.BackUp(3, "inc")
	testsite.WantKinds(t, inc.Point, "vda full, vdb inc")
	testsite.WantSaid(t, inc.Warnings, "disk vda is copied in full, as its image in point check3 is damaged: ")
	s.WriteAll(5)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc")
	s.Points = s.Points[3:]
	s.Check()
}

// A chain that is known to be broken is not extended.
func TestIncrementalOnDamagedPoint(t *testing.T) {
	t.Parallel()
	s := testsite.Filled(t)
	first := s.BackUp(0, "full").Point
	s.WriteAll(2)
	s.BackUp(0, "inc")
	if err := os.Remove(s.Image(first, "vda")); err != nil {
		t.Fatal(err)
	}
	s.WriteAll(3)
	s.Refused(5, "check1", "inc", s.Name, "--fallback", "fail")
	inc := s.BackUp(3, "inc")
	testsite.WantKinds(t, inc.Point, "vda full, vdb inc")
	testsite.WantSaid(t, inc.Warnings, "disk vda is copied in full, as its image in point check2 is damaged: ")
	s.WriteAll(4)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc")
	s.Points = s.Points[2:]
	s.Check()
}

// An image that cannot be read for the moment is not damaged: the run fails, and an
// incremental is not turned into a full. Here an image of the chain disappears once the one
// above it has been read, as on a file system that is mounted again.
func TestTailsThatCannotBeReadNow(t *testing.T) {
	s := testsite.Filled(t)
	image := s.Image(s.BackUp(0, "full").Point, "vda")
	for range 9 { // more images than are open at a time, so that the full is not open yet
		s.BackUp(0, "inc")
	}
	s.WriteAll(3)
	before := s.Footprint()
	onImageRead(s, func(int) { _ = os.Rename(image, image+".away") })
	_, err := backUpHere(s, t.Context(), backup.Request{Wanted: plan.Wanted{Kind: manifest.KindInc}})
	directio.OnRead.Store(nil)
	if err := os.Rename(image+".away", image); err != nil {
		t.Fatal(err)
	}
	var damaged *damage.Error
	if !errors.Is(err, fs.ErrNotExist) || errors.As(err, &damaged) {
		t.Errorf("got %v, want that a file is missing, and no damage", err)
	}
	if after := s.Footprint(); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc")
	s.Check()
}
