package chains

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// A repository and its copy are written to in turn: each knows its own checkpoints,
// and leaves those of the other alone.
func TestCopiedRepository(t *testing.T) {
	t.Parallel()
	a := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}))
	a.WriteAll(1)
	a.BackUp(0, "full")
	b := a.Copied()
	a.WriteAll(2)
	second := a.BackUp(0, "inc").Point
	a.WriteAll(3)
	r := b.BackUp(3, "inc")
	testsite.WantSaid(t, r.Warnings, "the repository is not where it was: it was moved, or it is a copy")
	testsite.WantKinds(t, r.Point, "vda inc") // check1 is known to both
	a.WriteAll(4)
	third := a.BackUp(0, "inc").Point
	if third.Parent != second.ID {
		t.Errorf("the third point is since %s, want %s", third.Parent, second.ID)
	}
	testsite.WantKinds(t, third, "vda inc")
	b.WriteAll(5)
	r = b.BackUp(0, "inc") // the warning comes once
	testsite.WantKinds(t, r.Point, "vda inc")
	list := b.Program.Must(t, nil, "checkpoint", "list", b.Name).Stdout
	testsite.WantLine(t, list, `^`+second.Checkpoint+` +foreign`)
	testsite.WantLine(t, list, `^`+r.Point.Checkpoint+` +ours`)
	testsite.WantLine(t, list, `^`+a.Points[0].Checkpoint+` +inherited`)
	// Neither the other's checkpoints nor those from before are deleted without --force.
	b.Program.Must(t, nil, "release", b.Name)
	a.WantCheckpoints(a.Points[0].ID, second.ID, third.ID)
	a.WriteAll(6)
	testsite.WantKinds(t, a.BackUp(0, "inc").Point, "vda inc")
	b.Rejects(testsite.Reject(1, "was not made by virtbackup for this repository", "--force"), []string{"checkpoint", "delete", b.Name, second.Checkpoint})
	b.Program.Must(t, nil, "checkpoint", "delete", b.Name, second.Checkpoint, "--force")
	// After adopting them the copy goes on with its chain, and its points verify.
	adopted := b.Program.Must(t, nil, "init", "--new-id", b.Repo).Stdout
	if !strings.Contains(adopted, "before, it was "+a.RepositoryID()) || !strings.Contains(adopted, "Checkpoints that it inherited (checkpoint list) are used, but never deleted") || b.RepositoryID() == a.RepositoryID() {
		t.Errorf("adopted: %s", adopted)
	}
	b.WriteAll(7)
	testsite.WantKinds(t, b.BackUp(0, "inc").Point, "vda inc")
	b.Program.Must(t, nil, "verify")
	a.Check()
	b.Check()
}

// Runs and recover of the copy leave a live job of the original alone, and its freeze; once
// the original's process is dead, the original's own recover ends the job.
func TestCopyWhileARunIsAlive(t *testing.T) {
	t.Parallel()
	a := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}))
	a.WriteAll(1)
	a.BackUp(0, "full")
	a.WriteAll(2)
	// All has been read by then: while QEMU waits for a client that is stopped to take
	// what it has read, it does not answer libvirt either.
	p := a.StartBroken("step end before:pause", nil, "inc")
	testsite.AwaitStopped(t, p)
	b := a.Copied()
	b.Program.Must(t, nil, "recover", b.Name)
	if !a.HasJob() {
		t.Fatal("recover in the copy has ended the job of the original")
	}
	b.Rejects(testsite.Reject(1, "is held by a job that is not ours", "may be alive; if it is dead, virsh domjobabort "+b.Name+" ends it"), []string{"inc", b.Name, "--wait", "0s"})
	if !a.HasJob() || len(a.Checkpoints()) != 2 {
		t.Fatalf("a run in the copy has ended the job of the original, or deleted a checkpoint: %v", a.Checkpoints())
	}
	p.Signal(syscall.SIGKILL)
	p.Wait()
	b.Program.Must(t, nil, "recover", b.Name) // the original may clean it up, the copy may not
	if !a.HasJob() {
		t.Error("recover in the copy has ended the job of the original, which is dead")
	}
	a.Program.Must(t, nil, "recover", a.Name)
	a.WantNothingOfRun("check1")
	a.Check()
}

// Numbers of removed points are not used again, and a domain's directory that was removed
// and brought back knows only its own checkpoints.
func TestNumbersUsedAgain(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}))
	s.WriteAll(1)
	s.BackUp(0, "full")
	s.WriteAll(2)
	s.BackUp(0, "inc")
	s.Program.Must(t, nil, "release", s.Name+"@check2", "--points")
	s.Points = s.Points[:1]
	s.WriteAll(3)
	if id := s.BackUp(0, "inc").Point.ID; id != "check3" {
		t.Errorf("after check2 was removed the next point is %s", id)
	}
	dir, aside := filepath.Join(s.Repo, s.Name), filepath.Join(s.Repo, s.Name+"-aside")
	if err := os.Rename(dir, aside); err != nil {
		t.Fatal(err)
	}
	before := s.Points
	s.Points = nil
	for round, kind := range []string{"full", "inc", "inc"} {
		s.WriteAll(int64(4 + round))
		s.BackUp(0, kind)
	}
	s.WriteAll(7)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(aside, dir); err != nil {
		t.Fatal(err)
	}
	for _, p := range s.Points { // libvirt still has the others'
		if !strings.Contains(strings.Join(s.Checkpoints(), " "), p.Checkpoint) {
			t.Errorf("%s is gone", p.Checkpoint)
		}
	}
	s.Points = before
	inc := s.BackUp(0, "inc").Point
	if inc.ID != "check4" || inc.Parent != "check3" {
		t.Errorf("%s is since %s", inc.ID, inc.Parent)
	}
	testsite.WantKinds(t, inc, "vda inc")
	s.Check()
}

// A disk's file is rolled back in place, to one that has a bitmap of an instant whose
// number was used again.
func TestDiskRolledBack(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}))
	image := s.Disk("vda").Source
	s.WriteAll(1)
	s.BackUp(0, "full")
	s.WriteAll(2)
	s.BackUp(0, "inc")
	s.Destroy()
	testdomain.Tool(t, "cp", image, image+".bak")
	s.Start()
	s.Program.Must(t, nil, "release", s.Name+"@check2", "--points")
	if err := os.RemoveAll(filepath.Join(s.Repo, s.Name, "check2")); err != nil {
		t.Fatal(err)
	}
	s.Points = s.Points[:1]
	s.WriteAll(3)
	s.BackUp(0, "inc")
	s.Destroy()
	testdomain.Tool(t, "dd", "if="+image+".bak", "of="+image, "bs=1M") // the same inode
	s.Start()
	inc := s.BackUp(3, "inc")
	testsite.WantKinds(t, inc.Point, "vda rescan")
	testsite.WantSaid(t, inc.Warnings, "is missing or broken")
	s.WriteAll(4)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc")
	s.Check()
}

// Without its list of identities, or with one that is damaged, a domain goes on: disks
// are compared, and nothing in libvirt is touched.
func TestInstantsGone(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}))
	for round, damage := range []func(string) error{
		os.Remove, func(path string) error {
			return os.WriteFile(path, []byte(`{"format":2,"highest":0,"issued":[]}`), 0o600)
		},
	} {
		s.WriteAll(int64(3*round + 1))
		s.BackUp(0, []string{"full", "inc"}[round])
		if err := damage(filepath.Join(s.Repo, s.Name, "instants.json")); err != nil {
			t.Fatal(err)
		}
		if round == 1 { // nothing else would report it before the next backup
			if r := s.Program.Must(t, []int{3}, "list", s.Name); !strings.Contains(r.Stderr, "instants.json of domain "+s.Name+" is damaged") {
				t.Errorf("list says %s", r.Stderr)
			}
			if r := s.Program.Must(t, []int{5}, "verify", s.Name); !strings.Contains(r.Stdout+r.Stderr, "every point that was checked still restores") {
				t.Errorf("verify says %s%s", r.Stdout, r.Stderr)
			}
		}
		s.WriteAll(int64(3*round + 2))
		before := s.Checkpoints()
		inc := s.BackUp(3, "inc")
		testsite.WantKinds(t, inc.Point, "vda rescan")
		testsite.WantSaid(t, inc.Warnings, []string{"this repository does not know its identity", "is damaged"}[round])
		if got := s.Checkpoints(); len(got) != len(before)+1 {
			t.Errorf("the checkpoints were %v, and are %v", before, got)
		}
	}
	s.Check()
}

// Only the newest checkpoints stay, and that of the newest full; since the others a
// point is made by comparing.
func TestKeepCheckpoints(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}))
	for round, kind := range []string{"full", "full", "inc", "inc", "inc"} {
		s.WriteAll(int64(round + 1))
		s.BackUp(0, kind, "--keep-checkpoints", "2")
	}
	s.WantCheckpoints("check2", "check4", "check5")
	var listed []struct {
		ID         string
		Checkpoint bool `json:"has_checkpoint"`
	}
	if err := json.Unmarshal([]byte(s.Program.Must(t, nil, "list", "--json").Stdout), &listed); err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{false, true, false, true, true} {
		if listed[i].Checkpoint != want {
			t.Errorf("%s has a checkpoint: %v", listed[i].ID, listed[i].Checkpoint)
		}
	}
	testsite.WantLine(t, s.Program.Must(t, nil, "list").Stdout, `check3 .* -  `)
	s.WriteAll(6)
	testsite.WantKinds(t, s.BackUp(0, "diff").Point, "vda inc")
	since := s.BackUp(3, "diff", "--since", "check3")
	testsite.WantKinds(t, since.Point, "vda rescan")
	s.Destroy()
	s.DefineAnew() // retired checkpoints are not defined again
	s.Start()
	s.WriteAll(7)
	s.BackUp(0, "inc")
	s.WantCheckpoints("check2", "check4", "check5", "check8")
	s.Check()
}
