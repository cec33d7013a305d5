package tests

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/virtbackup/virtbackup/release"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// released runs release and returns what it has removed.
func (s *site) released(what string, args ...string) release.Result {
	s.t.Helper()
	r := s.program.Must(s.t, nil, append([]string{"release", what, "--json"}, args...)...)
	var result release.Result
	if err := json.Unmarshal([]byte(r.Stdout), &result); err != nil {
		s.t.Fatal(err)
	}
	return result
}

// wantReleased checks what was removed, in this order.
func wantReleased(t *testing.T, r release.Result, checkpoints, points string) {
	t.Helper()
	if got := strings.Join(r.Checkpoints, " "); got != checkpoints {
		t.Errorf("checkpoints %q, want %q", got, checkpoints)
	}
	if got := strings.Join(r.Points, " "); got != points {
		t.Errorf("points %q, want %q", got, points)
	}
}

// chain makes the points check1 to check3, diff4 and copy5.
func chain(t *testing.T) *site {
	t.Helper()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}))
	for round, kind := range []string{"full", "inc", "inc", "diff", "copy"} {
		s.writeAll(int64(round + 1))
		s.backUp(0, kind)
	}
	return s
}

// bitmaps lists those of a disk, of a domain that is off.
func (s *site) bitmaps(target string) string {
	s.t.Helper()
	var names []string
	for line := range strings.Lines(testdomain.Tool(s.t, "qemu-img", "info", s.Disk(target).Source)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "name: "); ok {
			names = append(names, name)
		}
	}
	return strings.Join(names, " ")
}

// Of a running domain the bitmaps go, too; then it can be undefined. The points
// stay, and a new chain can begin beside them.
func TestReleaseCheckpoints(t *testing.T) {
	t.Parallel()
	s := chain(t)
	for _, foreign := range []string{"foreign", "check1"} { // a point has the name of one of them
		testdomain.Virsh(t, "checkpoint-create-as", s.Name, foreign)
	}
	before := s.everything(nil)
	wantReleased(t, s.released(s.Name, "--dry-run"), "check3 check2 check1", "")
	if after := s.everything(nil); after != before {
		t.Errorf("the dry run has changed something: before\n%s\nafter\n%s", before, after)
	}
	wantReleased(t, s.released(s.Name+"@check2"), "check2", "")
	s.refused(1, "checkpoint check2 is gone", "inc", s.Name, "--since", "check2", "--fallback", "fail")
	wantReleased(t, s.released(s.Name), "check3 check1", "")
	if r := s.program.Must(t, nil, "release", s.Name); !strings.Contains(r.Stdout, "nothing to release") {
		t.Errorf("a second release: %s", r.Stdout)
	}
	s.refused(1, "is gone from libvirt", "inc", s.Name, "--fallback", "fail")
	if id := s.backUp(0, "auto", "--fallback", "full").Point.ID; id != "check6" {
		t.Errorf("the next point is %s", id)
	}
	s.released(s.Name)
	s.wantCheckpoints("foreign", "check1")
	s.check()
	for _, foreign := range s.Checkpoints() {
		testdomain.Virsh(t, "checkpoint-delete", s.Name, foreign)
	}
	doc := testdomain.Virsh(t, "dumpxml", s.Name, "--inactive")
	s.Destroy()
	if got := s.bitmaps("vda"); got != "" {
		t.Errorf("bitmaps are left: %s", got)
	}
	testdomain.Virsh(t, "undefine", s.Name)
	file := filepath.Join(s.Dir, "again.xml")
	write(t, file, doc)
	testdomain.Virsh(t, "define", file) // for its clean-up
}

// Of a domain that is off the bitmaps stay: it can be undefined and defined
// somewhere else, and go on.
func TestReleaseShutOff(t *testing.T) {
	t.Parallel()
	s := chain(t)
	s.writeAll(6)
	doc := testdomain.Virsh(t, "dumpxml", s.Name, "--inactive")
	s.Destroy()
	result := s.released(s.Name)
	wantReleased(t, result, "check3 check2 check1", "")
	wantSaid(t, result.Notes, "the next run of a domain with this name, UUID")
	testdomain.Virsh(t, "undefine", s.Name)
	// One point less takes nothing from the others.
	wantReleased(t, s.released(s.Name+"@copy5", "--points"), "", "copy5")
	s.points = s.points[:4]
	file := filepath.Join(s.Dir, "again.xml")
	write(t, file, doc)
	testdomain.Virsh(t, "define", file)
	s.Start()
	s.writeAll(7)
	inc := s.backUp(0, "inc")
	wantKinds(t, inc.Point, "vda inc")
	if inc.Point.Parent != "check3" || len(inc.Recovered) != 3 {
		t.Errorf("since %s, recovered %q", inc.Point.Parent, inc.Recovered)
	}
	s.check()
}

// A point that others need is not removed; one that nobody needs is, with its
// checkpoint, and what is left restores.
func TestReleasePoint(t *testing.T) {
	t.Parallel()
	s := chain(t)
	for point, children := range map[string]string{"check1": "check2, diff4", "check2": "check3"} {
		s.rejects(rejection{1, point + " of domain " + s.Name + " is not removed: " + children + " could not", "newest first"},
			[]string{"release", s.Name + "@" + point, "--points"})
	}
	s.rejects(rejection{6, "check9", "virtbackup list"}, []string{"release", s.Name + "@check9", "--points"})
	s.rejects(rejection{6, "nosuch", "virsh list"}, []string{"release", "nosuch", "--points"})
	s.rejects(rejection{2, "DOMAIN[@POINT]", "--help"}, []string{"release"})

	wantReleased(t, s.released(s.Name+"@diff4", "--points", "--dry-run"), "", "diff4")
	wantReleased(t, s.released(s.Name+"@diff4", "--points"), "", "diff4")
	wantReleased(t, s.released(s.Name+"@check3", "--points"), "check3", "check3")
	s.points = append(s.points[:2], s.points[4]) // check1 check2 copy5
	s.writeAll(6)
	inc := s.backUp(0, "inc")
	wantKinds(t, inc.Point, "vda inc")
	if inc.Point.ID != "check6" || inc.Point.Parent != "check2" {
		t.Errorf("%s since %s, want check6 since check2", inc.Point.ID, inc.Point.Parent)
	}
	s.check()
}

// A damaged point may be in need of any before it.
func TestReleaseBesideDamage(t *testing.T) {
	t.Parallel()
	s := chain(t)
	write(t, filepath.Join(s.repo, s.Name, "check3", "manifest.json"), "{}")
	s.rejects(rejection{1, "check3 may need it", "newest first"}, []string{"release", s.Name + "@check2", "--points"})
	wantReleased(t, s.released(s.Name, "--points", "--dry-run"), "check3 check2 check1", "copy5 diff4 check3 check2 check1")
	wantReleased(t, s.released(s.Name+"@check3", "--points"), "check3", "check3")
	for _, id := range []string{"check1", "check2", "diff4", "copy5"} { // none tells whose they are
		write(t, filepath.Join(s.repo, s.Name, id, "manifest.json"), "{}")
	}
	wantReleased(t, s.released(s.Name, "--points"), "check2 check1", "copy5 diff4 check2 check1")
}

// All of a domain goes, and nothing of others; the next chain begins at one.
func TestReleaseAll(t *testing.T) {
	t.Parallel()
	s := chain(t)
	other := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 1 << 20}))
	other.repo, other.program = s.repo, s.program
	other.backUp(0, "full")
	write(t, filepath.Join(s.repo, s.Name, ".partial-check6", "vda.qcow2"), "half")
	result := s.released(s.Name, "--points")
	wantReleased(t, result, "check3 check2 check1", "copy5 diff4 check3 check2 check1")
	if left := listing(t, filepath.Join(s.repo, s.Name)); left != " absent" {
		t.Errorf("left: %s", left)
	}
	s.points = nil
	if id := s.backUp(0, "full").Point.ID; id != "check1" {
		t.Errorf("the first point of a new chain is %s", id)
	}
	s.check()
	other.check()
}

// A domain that libvirt does not know any more: its points can go. One of the
// same name that is another domain is left alone.
func TestReleaseUnknownDomain(t *testing.T) {
	t.Parallel()
	s := chain(t)
	s.Destroy()
	testdomain.Virsh(t, "undefine", s.Name, "--checkpoints-metadata")
	result := s.released(s.Name)
	wantReleased(t, result, "", "")
	wantSaid(t, result.Notes, "the points stay")
	testdomain.Virsh(t, "define", filepath.Join(s.Dir, "domain.xml")) // it gets another UUID
	s.Start()
	testdomain.Virsh(t, "checkpoint-create-as", s.Name, "its-own")
	result = s.released(s.Name, "--points")
	wantReleased(t, result, "", "copy5 diff4 check3 check2 check1")
	wantSaid(t, result.Notes, "is another one, with another UUID")
	if got := strings.Join(s.labels(), " "); got != "its-own" {
		t.Errorf("checkpoints: %s", got)
	}
	if left := listing(t, filepath.Join(s.repo, s.Name)); left != " absent" {
		t.Errorf("left: %s", left)
	}
	// The old bitmaps are in the image still: the new ones have other identities.
	s.points = nil
	s.UUID = strings.TrimSpace(testdomain.Virsh(t, "domuuid", s.Name))
	if id := s.backUp(0, "full").Point.ID; id != "check1" {
		t.Errorf("the first point is %s, want check1", id)
	}
	s.writeAll(7)
	s.backUp(0, "inc")
	s.check()
}

// A renamed domain is found by its UUID; what it has under its new name stays.
func TestReleaseRenamed(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}))
	s.backUp(0, "full")
	s.backUp(0, "inc")
	old := s.Name
	t.Cleanup(func() { _ = os.Remove("/var/log/libvirt/qemu/" + old + "-new.log") })
	s.rename(old + "-new")
	s.program.Must(t, []int{3}, "full", s.Name)
	unlock := s.lock(s.Name) // as a run of the domain does now
	s.rejects(rejection{4, "domain " + s.Name + " is locked by process", "another run"}, []string{"release", old, "--points"})
	unlock()
	result := s.released(old, "--points")
	wantReleased(t, result, "check2 check1", "check2 check1")
	wantSaid(t, result.Notes, fmt.Sprintf("libvirt calls domain %s now %s", old, s.Name))
	if got := strings.Join(s.labels(), " "); got != "check1" {
		t.Errorf("checkpoints: %s", got)
	}
	s.program.Must(t, nil, "inc", s.Name)
	s.rename(old)
}

// lock takes the lock of a domain in the site's repository.
func (s *site) lock(domain string) (unlock func()) {
	s.t.Helper()
	repo, err := repository.Open(s.repo)
	if err != nil {
		s.t.Fatal(err)
	}
	lock, err := repo.Lock(domain)
	if err != nil {
		s.t.Fatal(err)
	}
	return func() {
		if err := lock.Unlock(); err != nil {
			s.t.Error(err)
		}
	}
}

// A release that is killed at whatever instant leaves a point listed and whole,
// or a leftover that the next run removes.
func TestReleaseHalfWay(t *testing.T) {
	t.Parallel()
	s := chain(t)
	// What it does, in order: checkpoints, then for each point the rename and
	// the removal. Here it dies between the two.
	dir := filepath.Join(s.repo, s.Name)
	if err := os.Rename(filepath.Join(dir, "check3"), filepath.Join(dir, ".partial-check3")); err != nil {
		t.Fatal(err)
	}
	wantReleased(t, s.released(s.Name+"@check2", "--dry-run"), "check2", "") // and not what is left over
	s.points = s.points[:2]
	s.writeAll(6)
	inc := s.backUp(0, "inc")
	wantSaid(t, inc.Recovered, "checkpoint check3")
	wantSaid(t, inc.Recovered, "the unfinished point .partial-check3")
	wantKinds(t, inc.Point, "vda inc")
	if inc.Point.Parent != "check2" {
		t.Errorf("since %s, want check2", inc.Point.Parent)
	}
	s.check()
}

// Where there is no point yet, what a killed first run has left is known by its
// identity, and goes before the list of identities does.
func TestReleaseAfterAKilledFirstRun(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 512 << 20}))
	s.Write("vda", 0, 384<<20, 0x42)
	p := s.stopped("full", s.Name)
	p.Signal(syscall.SIGKILL)
	p.Wait()
	if !s.HasJob() {
		t.Fatal("the killed run has left no job")
	}
	s.released(s.Name, "--points")
	if left := s.Checkpoints(); s.HasJob() || len(left) > 0 {
		t.Errorf("left: job %v, checkpoints %q", s.HasJob(), left)
	}
	if left := listing(t, filepath.Join(s.repo, s.Name)); left != " absent" {
		t.Errorf("left: %s", left)
	}
}
