package tests

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// copied is the site with a copy of its repository, with all files, and what the
// points there show.
func (s *site) copied() *site {
	s.t.Helper()
	other := *s
	other.repo = filepath.Join(testdomain.TempDir(s.t), "repo")
	testdomain.Tool(s.t, "cp", "-a", s.repo, other.repo)
	other.program = testdomain.Program{Env: []string{"VIRTBACKUP_REPO=" + other.repo}}
	other.points = append([]truePoint{}, s.points...)
	return &other
}

// A repository and its copy are written to in turn: each knows its own checkpoints,
// and leaves those of the other alone.
func TestCopiedRepository(t *testing.T) {
	t.Parallel()
	a := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}))
	a.writeAll(1)
	a.backUp(0, "full")
	b := a.copied()
	a.writeAll(2)
	second := a.backUp(0, "inc").Point
	a.writeAll(3)
	r := b.backUp(3, "inc")
	wantSaid(t, r.Warnings, "the repository is not where it was: it was moved, or it is a copy")
	wantKinds(t, r.Point, "vda inc") // check1 is known to both
	a.writeAll(4)
	third := a.backUp(0, "inc").Point
	if third.Parent != second.ID {
		t.Errorf("the third point is since %s, want %s", third.Parent, second.ID)
	}
	wantKinds(t, third, "vda inc")
	b.writeAll(5)
	r = b.backUp(0, "inc") // it is said once
	wantKinds(t, r.Point, "vda inc")
	list := b.program.Must(t, nil, "checkpoint", "list", b.Name).Stdout
	wantLine(t, list, `^`+second.Checkpoint+` +foreign`)
	wantLine(t, list, `^`+r.Point.Checkpoint+` +ours`)
	wantLine(t, list, `^`+a.points[0].Checkpoint+` +inherited`)
	// Neither the other's checkpoints nor those from before go, but by force.
	b.program.Must(t, nil, "release", b.Name)
	a.wantCheckpoints(a.points[0].ID, second.ID, third.ID)
	a.writeAll(6)
	wantKinds(t, a.backUp(0, "inc").Point, "vda inc")
	b.rejects(rejection{1, "was not made by virtbackup for this repository", "--force"}, []string{"checkpoint", "delete", b.Name, second.Checkpoint})
	b.program.Must(t, nil, "checkpoint", "delete", b.Name, second.Checkpoint, "--force")
	// Adopted, the copy goes on with its chain, and its points verify.
	adopted := b.program.Must(t, nil, "init", "--new-id", b.repo).Stdout
	if !strings.Contains(adopted, "before, it was "+a.repoID()) || !strings.Contains(adopted, "Checkpoints that it inherited (checkpoint list) are used, but never deleted") || b.repoID() == a.repoID() {
		t.Errorf("adopted: %s", adopted)
	}
	b.writeAll(7)
	wantKinds(t, b.backUp(0, "inc").Point, "vda inc")
	b.program.Must(t, nil, "verify")
	a.check()
	b.check()
}

// The copy's runs and recover leave a job of the original alone that is alive, and a
// freeze; once the original's process is dead, its own recover ends it.
func TestCopyWhileARunIsAlive(t *testing.T) {
	t.Parallel()
	a := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}))
	a.writeAll(1)
	a.backUp(0, "full")
	a.writeAll(2)
	// All has been read by then: while QEMU waits for a client that is stopped to take
	// what it has read, it does not answer libvirt either.
	p := a.startBroken("step end before:pause", nil, "inc")
	awaitStopped(t, p)
	b := a.copied()
	b.program.Must(t, nil, "recover", b.Name)
	if !a.HasJob() {
		t.Fatal("recover in the copy has ended the job of the original")
	}
	b.rejects(rejection{1, "is held by a job that is not ours", "may be alive; if it is dead, virsh domjobabort " + b.Name + " ends it"}, []string{"inc", b.Name, "--wait", "0s"})
	if !a.HasJob() || len(a.Checkpoints()) != 2 {
		t.Fatalf("a run in the copy has ended the job of the original, or deleted a checkpoint: %v", a.Checkpoints())
	}
	p.Signal(syscall.SIGKILL)
	p.Wait()
	b.program.Must(t, nil, "recover", b.Name) // the original may put it right, the copy may not
	if !a.HasJob() {
		t.Error("recover in the copy has ended the job of the original, which is dead")
	}
	a.program.Must(t, nil, "recover", a.Name)
	a.wantNothingOfRun("check1")
	a.check()
}

func (s *site) wantNothingOfRun(points ...string) {
	s.t.Helper()
	if s.HasJob() {
		s.t.Error("a job is left")
	}
	s.wantCheckpoints(points...)
}

// Numbers of points that were removed are not given again, and a domain's directory
// that was removed and brought back knows its own checkpoints only.
func TestNumbersUsedAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}))
	s.writeAll(1)
	s.backUp(0, "full")
	s.writeAll(2)
	s.backUp(0, "inc")
	s.program.Must(t, nil, "release", s.Name+"@check2", "--points")
	s.points = s.points[:1]
	s.writeAll(3)
	if id := s.backUp(0, "inc").Point.ID; id != "check3" {
		t.Errorf("after check2 was removed the next point is %s", id)
	}
	dir, aside := filepath.Join(s.repo, s.Name), filepath.Join(s.repo, s.Name+"-aside")
	if err := os.Rename(dir, aside); err != nil {
		t.Fatal(err)
	}
	before := s.points
	s.points = nil
	for round, kind := range []string{"full", "inc", "inc"} {
		s.writeAll(int64(4 + round))
		s.backUp(0, kind)
	}
	s.writeAll(7)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(aside, dir); err != nil {
		t.Fatal(err)
	}
	for _, p := range s.points { // the others' are in libvirt still
		if !strings.Contains(strings.Join(s.Checkpoints(), " "), p.Checkpoint) {
			t.Errorf("%s is gone", p.Checkpoint)
		}
	}
	s.points = before
	inc := s.backUp(0, "inc").Point
	if inc.ID != "check4" || inc.Parent != "check3" {
		t.Errorf("%s is since %s", inc.ID, inc.Parent)
	}
	wantKinds(t, inc, "vda inc")
	s.check()
}

// A disk's file is rolled back in place, to one that has a bitmap of an instant whose
// number was used again.
func TestDiskRolledBack(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}))
	image := s.Disk("vda").Source
	s.writeAll(1)
	s.backUp(0, "full")
	s.writeAll(2)
	s.backUp(0, "inc")
	s.Destroy()
	testdomain.Tool(t, "cp", image, image+".bak")
	s.Start()
	s.program.Must(t, nil, "release", s.Name+"@check2", "--points")
	if err := os.RemoveAll(filepath.Join(s.repo, s.Name, "check2")); err != nil {
		t.Fatal(err)
	}
	s.points = s.points[:1]
	s.writeAll(3)
	s.backUp(0, "inc")
	s.Destroy()
	testdomain.Tool(t, "dd", "if="+image+".bak", "of="+image, "bs=1M") // the same inode
	s.Start()
	inc := s.backUp(3, "inc")
	wantKinds(t, inc.Point, "vda rescan")
	wantSaid(t, inc.Warnings, "is missing or broken")
	s.writeAll(4)
	wantKinds(t, s.backUp(0, "inc").Point, "vda inc")
	s.check()
}

// Without its list of identities, or with one that is damaged, a domain goes on: disks
// are compared, and nothing in libvirt is touched.
func TestInstantsGone(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}))
	for round, damage := range []func(string) error{
		os.Remove, func(path string) error {
			return os.WriteFile(path, []byte(`{"format":2,"highest":0,"issued":[]}`), 0o600)
		},
	} {
		s.writeAll(int64(3*round + 1))
		s.backUp(0, []string{"full", "inc"}[round])
		if err := damage(filepath.Join(s.repo, s.Name, "instants.json")); err != nil {
			t.Fatal(err)
		}
		if round == 1 { // nobody else would tell before the next backup
			if r := s.program.Must(t, []int{3}, "list", s.Name); !strings.Contains(r.Stderr, "instants.json of domain "+s.Name+" is damaged") {
				t.Errorf("list says %s", r.Stderr)
			}
			if r := s.program.Must(t, []int{5}, "verify", s.Name); !strings.Contains(r.Stdout+r.Stderr, "every point that was checked still restores") {
				t.Errorf("verify says %s%s", r.Stdout, r.Stderr)
			}
		}
		s.writeAll(int64(3*round + 2))
		before := s.Checkpoints()
		inc := s.backUp(3, "inc")
		wantKinds(t, inc.Point, "vda rescan")
		wantSaid(t, inc.Warnings, []string{"this repository does not know its identity", "is damaged"}[round])
		if got := s.Checkpoints(); len(got) != len(before)+1 {
			t.Errorf("the checkpoints were %v, and are %v", before, got)
		}
	}
	s.check()
}

// Only the newest checkpoints stay, and that of the newest full; since the others a
// point is made by comparing.
func TestKeepCheckpoints(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}))
	for round, kind := range []string{"full", "full", "inc", "inc", "inc"} {
		s.writeAll(int64(round + 1))
		s.backUp(0, kind, "--keep-checkpoints", "2")
	}
	s.wantCheckpoints("check2", "check4", "check5")
	var listed []struct {
		ID         string
		Checkpoint bool `json:"has_checkpoint"`
	}
	if err := json.Unmarshal([]byte(s.program.Must(t, nil, "list", "--json").Stdout), &listed); err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{false, true, false, true, true} {
		if listed[i].Checkpoint != want {
			t.Errorf("%s has a checkpoint: %v", listed[i].ID, listed[i].Checkpoint)
		}
	}
	wantLine(t, s.program.Must(t, nil, "list").Stdout, `check3 .* -  `)
	s.writeAll(6)
	wantKinds(t, s.backUp(0, "diff").Point, "vda inc")
	since := s.backUp(3, "diff", "--since", "check3")
	wantKinds(t, since.Point, "vda rescan")
	s.Destroy()
	s.defineAnew() // what is retired is not defined again
	s.Start()
	s.writeAll(7)
	s.backUp(0, "inc")
	s.wantCheckpoints("check2", "check4", "check5", "check8")
	s.check()
}
