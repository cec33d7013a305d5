package tests

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

// forgePoint seals a point of that instant, with no disks, as a host would whose
// clock is wrong.
func (s *site) forgePoint(id string, at time.Time) {
	s.t.Helper()
	repo, err := repository.Open(s.repo)
	if err != nil {
		s.t.Fatal(err)
	}
	lock, err := repo.Lock(s.Name)
	if err != nil {
		s.t.Fatal(err)
	}
	partial, err := lock.Begin(id, manifest.NewIdentity())
	if err != nil {
		s.t.Fatal(err)
	}
	if err := partial.Seal(manifest.Manifest{ID: id, Kind: manifest.KindCopy, Domain: s.Name, DomainUUID: s.UUID,
		Time: at, Finished: at, Consistency: manifest.ConsistencyCrash}); err != nil {
		s.t.Fatal(err)
	}
	if err := lock.Unlock(); err != nil {
		s.t.Fatal(err)
	}
}

// A point that was made while the clock was wrong is named, and so is the one
// after it; latest is the one with the highest number all the same.
func TestClock(t *testing.T) {
	t.Parallel()
	s := smallSite(t)
	s.backUp(0, "full")
	future := time.Now().AddDate(3, 0, 0).UTC()
	s.forgePoint("copy2", future)
	s.Write("vda", 2<<20, 1<<20, 0x43)
	inc := s.backUp(3, "inc")
	for _, warnings := range [][]string{inc.Warnings, inc.Point.Warnings} {
		wantSaid(t, warnings, "point check3: its time, ")
		wantSaid(t, warnings, "is not after that of copy2, ")
	}
	list := s.run("list", s.Name).Stdout
	wantLine(t, list, `^  copy2 .*its time, `+future.Local().Format(time.DateTime)+`, lies in the future$`)
	wantLine(t, list, `^  └─ check3 .*is not after that of copy2, .*: the host's clock went backwards$`)
	wantLine(t, s.run("show", s.Name).Stdout, `^point: +check3$`)
	for _, at := range []string{"latest", time.Now().Format(time.DateTime)} {
		dir := filepath.Join(s.Dir, "restored")
		s.run("restore", s.Name, "--to", dir, "--at", at, "--format", "raw", "--quiet")
		sameBytes(t, filepath.Join(dir, "vda.raw"), s.points[1].truth["vda"])
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	wantLine(t, s.run("show", s.Name+"@"+future.AddDate(0, 0, 1).Format(time.DateOnly)).Stdout, `^point: +copy2$`)
	s.Write("vda", 3<<20, 1<<20, 0x44)
	s.backUp(0, "inc") // after the one before: nothing to say
	s.check()
}
