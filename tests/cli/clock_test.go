package cli

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// forgePoint seals a point without disks with that time, as a host with a wrong clock would.
func forgePoint(s *testsite.Site, id string, at time.Time) {
	s.T.Helper()
	repo, err := repository.Open(s.Repo)
	if err != nil {
		s.T.Fatal(err)
	}
	lock, err := repo.Lock(s.Name)
	if err != nil {
		s.T.Fatal(err)
	}
	partial, err := lock.Begin(id, manifest.NewIdentity())
	if err != nil {
		s.T.Fatal(err)
	}
	if err := partial.Seal(manifest.Manifest{ID: id, Kind: manifest.KindCopy, Domain: s.Name, DomainUUID: s.UUID,
		Time: at, Finished: at, Consistency: manifest.ConsistencyCrash}); err != nil {
		s.T.Fatal(err)
	}
	if err := lock.Unlock(); err != nil {
		s.T.Fatal(err)
	}
}

// A warning names a point that was made while the clock was wrong, and the one after it;
// latest is still the point with the highest number.
func TestClock(t *testing.T) {
	t.Parallel()
	s := testsite.Small(t)
	s.BackUp(0, "full")
	future := time.Now().AddDate(3, 0, 0).UTC()
	forgePoint(s, "copy2", future)
	s.Write("vda", 2<<20, 1<<20, 0x43)
	inc := s.BackUp(3, "inc")
	for _, warnings := range [][]string{inc.Warnings, inc.Point.Warnings} {
		testsite.WantSaid(t, warnings, "point check3: its time, ")
		testsite.WantSaid(t, warnings, "is not after that of copy2, ")
	}
	list := run(s, "list", s.Name).Stdout
	testsite.WantLine(t, list, `^  copy2 .*its time, `+future.Local().Format(time.DateTime)+`, lies in the future$`)
	testsite.WantLine(t, list, `^  └─ check3 .*is not after that of copy2, .*: the host's clock went backwards$`)
	testsite.WantLine(t, run(s, "show", s.Name).Stdout, `^point: +check3$`)
	for _, at := range []string{"latest", time.Now().Format(time.DateTime)} {
		dir := filepath.Join(s.Dir, "restored")
		run(s, "restore", s.Name, "--to", dir, "--at", at, "--format", "raw", "--quiet")
		testsite.SameBytes(t, filepath.Join(dir, "vda.raw"), s.Points[1].Truth["vda"])
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	testsite.WantLine(t, run(s, "show", s.Name+"@"+future.AddDate(0, 0, 1).Format(time.DateOnly)).Stdout, `^point: +copy2$`)
	s.Write("vda", 3<<20, 1<<20, 0x44)
	s.BackUp(0, "inc") // later than the previous one: no warning
	s.Check()
}
