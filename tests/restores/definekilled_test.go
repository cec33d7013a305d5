package restores

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// points are the fault points of a command, in their order.
func points(s *testsite.Site, args ...string) []string {
	s.T.Helper()
	trace := filepath.Join(testdomain.TempDir(s.T), "trace")
	program := s.Program
	program.Binary = testdomain.FaultyBinary(s.T)
	program.Env = append(slices.Clone(program.Env), "VIRTBACKUP_FAULT_TRACE="+trace)
	program.Must(s.T, nil, args...)
	text, err := os.ReadFile(trace)
	if err != nil {
		s.T.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

// startBroken starts a command with faults.
func startBroken(s *testsite.Site, faults string, args ...string) *testdomain.Process {
	s.T.Helper()
	program := s.Program
	program.Binary = testdomain.FaultyBinary(s.T)
	program.Env = append(slices.Clone(program.Env), "VIRTBACKUP_FAULT="+faults)
	return program.Start(s.T, args...)
}

// broken runs a command that is broken at a point.
func broken(s *testsite.Site, point, way string, args ...string) testdomain.Result {
	s.T.Helper()
	return startBroken(s, point+":"+way, args...).Wait()
}

// A restore that is killed at any of its steps, and begun again with the same command,
// defines the domain with the right disks. One that fails, or panics, or is ended by a signal,
// leaves nothing. The repository stays as it is.
func TestDefineBroken(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(testsite.NewSeed(t), 1))
	s := newSite(t)
	lose(s)
	repository := testsite.Listing(t, s.Repo)
	name := testdomain.NewName()
	copyOf(s, name)
	for _, name := range []string{s.Name, name} {
		b := breaking{s, name, filepath.Join(testdomain.TempDir(t), "new"), nil}
		b.args = []string{"restore", s.Name, "--define", "--to", filepath.Join(b.dir, "vm")}
		if name != s.Name {
			b.args = append(b.args, "--name", name)
		}
		all := points(s, b.args...)
		b.reset()
		if len(all) < 10 || !slices.Contains(all, "define: domain defined#1") {
			t.Fatalf("points %q", all)
		}
		for _, point := range all {
			// The reading of a point has many points that are alike, and undoes nothing here.
			own := strings.HasPrefix(point, "define:") || strings.HasPrefix(point, "restore:") || random.IntN(8) == 0
			late := strings.HasPrefix(point, "define:") || strings.HasPrefix(point, "restore: remove marker") || strings.HasPrefix(point, "restore: done")
			if own {
				b.kill(point)
			}
			if late && name == s.Name {
				b.fail(point, "error", 1)
				b.fail(point, "panic", 70)
				b.fail(point, "term", 143)
			}
		}
	}
	if after := testsite.Listing(t, s.Repo); after != repository {
		t.Errorf("the repository was\n%s\nand is\n%s", repository, after)
	}
}

// breaking is a restore that is broken again and again.
type breaking struct {
	*testsite.Site
	name string // of the domain that it defines
	dir  string // which it makes
	args []string
}

// defined says whether the domain is defined.
func (b breaking) defined() bool {
	_, err := testdomain.TryVirsh(b.T, "domuuid", b.name)
	return err == nil
}

// reset removes what a complete restore has made.
func (b breaking) reset() {
	b.T.Helper()
	testdomain.Virsh(b.T, "undefine", b.name)
	if err := os.RemoveAll(b.dir); err != nil {
		b.T.Fatal(err)
	}
}

// kill kills the restore at a point, begins it again, and looks at what it has made.
func (b breaking) kill(point string) {
	b.T.Helper()
	if r := broken(b.Site, point, "kill", b.args...); r.Code != 137 {
		b.T.Fatalf("killed at %s: exit %d", point, r.Code)
	}
	complete := strings.HasPrefix(point, "restore: done")
	if complete && !b.defined() {
		b.T.Errorf("killed at %s: the domain is not defined", point)
	}
	if !complete {
		b.Program.Must(b.T, nil, b.args...)
	}
	dir := filepath.Join(b.dir, "vm")
	if entries, _ := os.ReadDir(dir); len(entries) != 3 {
		b.T.Errorf("killed at %s, and begun again: %v is there", point, entries)
	}
	wantDisks(b.Site, b.name, dir, b.Points[len(b.Points)-1])
	b.reset()
}

// fail breaks the restore at a point, and looks at what is left. A signal may come too late.
func (b breaking) fail(point, way string, code int) {
	b.T.Helper()
	r := broken(b.Site, point, way, b.args...)
	if r.Code == 0 && way == "term" {
		b.reset()
		return
	}
	left, _ := os.ReadDir(b.dir)
	if r.Code != code || len(left) > 0 || b.defined() {
		b.T.Errorf("%s at %s: exit %d, left %v, defined %v", way, point, r.Code, left, b.defined())
		_ = os.RemoveAll(b.dir)
	}
}

// A domain that does not start is complete all the same.
func TestDefinedDomainDoesNotStart(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	lose(s)
	dir := newDir(t)
	r := broken(s, "define: start#1", "error", "restore", s.Name, "--define", "--to", dir, "--start")
	if r.Code != 1 || !strings.Contains(r.Stderr, "and defined, but does not start") || !strings.Contains(r.Stderr, "virsh start "+s.Name) {
		t.Errorf("exit %d: %s", r.Code, r.Stderr)
	}
	if !strings.Contains(r.Stdout, "domain "+s.Name+" is defined, UUID "+s.UUID+"\n  disk vda: the file "+dir) {
		t.Errorf("it does not say what was defined: %s", r.Stdout)
	}
	wantDisks(s, s.Name, dir, s.Points[1])
	testdomain.Virsh(t, "start", s.Name, "--paused")
}

// A killed restore that was put to use is not undone: neither its domain, while it runs, nor
// its images, once they were written to.
func TestDefineKilledAndUsed(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	lose(s)
	dir := newDir(t)
	args := []string{"restore", s.Name, "--define", "--to", dir}
	if r := broken(s, "restore: remove marker#1", "kill", args...); r.Code != 137 {
		t.Fatalf("exit %d", r.Code)
	}
	for i := range s.Disks {
		if s.Disks[i].Source != "" {
			s.Disks[i].Source = filepath.Join(dir, filepath.Base(s.Disks[i].Source))
		}
	}
	s.Start()
	s.Write("vda", 0, mib, 0x77)
	s.Rejects(testsite.Reject(1, "it is defined already", "virsh undefine"), args, dir)
	s.Destroy()
	s.Rejects(testsite.Reject(2, "has been changed since", "--to"), args, dir)
}

// A domain that somebody defines while the images are restored is not replaced.
func TestDefineMeanwhile(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	doc := filepath.Join(s.Dir, "theirs.xml")
	testsite.WriteFile(t, doc, testdomain.Virsh(t, "dumpxml", s.Name, "--inactive"))
	lose(s)
	dir := newDir(t)
	p := startBroken(s, "define: before the domain:pause", "restore", s.Name, "--define", "--to", dir)
	testsite.AwaitStopped(t, p)
	testdomain.Virsh(t, "define", doc)
	before := testdomain.Virsh(t, "dumpxml", s.Name)
	testsite.Continue(p)
	if r := p.Wait(); r.Code != 1 || !strings.Contains(r.Stderr, "it is defined already") {
		t.Errorf("exit %d", r.Code)
	}
	if after := testdomain.Virsh(t, "dumpxml", s.Name); after != before {
		t.Errorf("it was\n%s\nand is\n%s", before, after)
	}
	if left, _ := os.ReadDir(filepath.Dir(dir)); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// What a killed restore has left tells of no domain before that is defined: one that somebody
// defines meanwhile stays, wherever its disks are.
func TestDefineKilledAndDefinedByOthers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	dir := newDir(t)
	doc := filepath.Join(s.Dir, "theirs.xml")
	testsite.WriteFile(t, doc, strings.ReplaceAll(testdomain.Virsh(t, "dumpxml", s.Name, "--inactive"), s.Dir+"/", dir+"/old-"))
	lose(s)
	args := []string{"restore", s.Name, "--define", "--to", dir}
	if r := broken(s, "restore disk#1", "kill", args...); r.Code != 137 {
		t.Fatalf("exit %d", r.Code)
	}
	testdomain.Virsh(t, "define", doc)
	before := testdomain.Virsh(t, "dumpxml", s.Name)
	s.Rejects(testsite.Reject(1, "it is defined already", "virsh undefine"), args, dir)
	if after := testdomain.Virsh(t, "dumpxml", s.Name); after != before {
		t.Errorf("it was\n%s\nand is\n%s", before, after)
	}
}

// The images of a domain that a killed restore has defined are not replaced by others: those
// of another restore, without --define.
func TestDefineKilledAndRestoredWithout(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	lose(s)
	dir := newDir(t)
	args := []string{"restore", s.Name, "--define", "--to", dir}
	if r := broken(s, "define: domain defined#1", "kill", args...); r.Code != 137 {
		t.Fatalf("exit %d", r.Code)
	}
	s.Rejects(testsite.Reject(2, "may have defined a domain on it", "--define again"), []string{"restore", s.Name + "@check1", "--to", dir}, dir)
	wantDisks(s, s.Name, dir, s.Points[1])
	s.Program.Must(t, nil, args...)
	wantDisks(s, s.Name, dir, s.Points[1])
}
