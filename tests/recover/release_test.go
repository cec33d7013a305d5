package recover

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/release"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// chain makes the points check1 to check3, diff4 and copy5.
func chain(t *testing.T) *testsite.Site {
	t.Helper()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}))
	for round, kind := range []string{"full", "inc", "inc", "diff", "copy"} {
		s.WriteAll(int64(round + 1))
		s.BackUp(0, kind)
	}
	return s
}

// bitmaps lists the bitmaps of a disk; the domain must be off.
func bitmaps(s *testsite.Site, target string) string {
	s.T.Helper()
	var names []string
	for line := range strings.Lines(testdomain.Tool(s.T, "qemu-img", "info", s.Disk(target).Source)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "name: "); ok {
			names = append(names, name)
		}
	}
	return strings.Join(names, " ")
}

// If the domain runs its bitmaps are deleted, too, and it can then be undefined. The points
// stay, and a new chain can begin beside them.
func TestReleaseCheckpoints(t *testing.T) {
	t.Parallel()
	s := chain(t)
	for _, foreign := range []string{"foreign", "check1"} { // a point has the name of one of them
		testdomain.Virsh(t, "checkpoint-create-as", s.Name, foreign)
	}
	before := s.Everything(nil)
	testsite.WantReleased(t, s.Released(s.Name, "--dry-run"), "check3 check2 check1", "")
	if after := s.Everything(nil); after != before {
		t.Errorf("the dry run has changed something: before\n%s\nafter\n%s", before, after)
	}
	testsite.WantReleased(t, s.Released(s.Name+"@check2"), "check2", "")
	s.Refused(1, "checkpoint check2 is gone", "inc", s.Name, "--since", "check2", "--fallback", "fail")
	testsite.WantReleased(t, s.Released(s.Name), "check3 check1", "")
	if r := s.Program.Must(t, nil, "release", s.Name); !strings.Contains(r.Stdout, "nothing to release") {
		t.Errorf("a second release: %s", r.Stdout)
	}
	s.Refused(1, "is gone from libvirt", "inc", s.Name, "--fallback", "fail")
	if id := s.BackUp(0, "auto", "--fallback", "full").Point.ID; id != "check6" {
		t.Errorf("the next point is %s", id)
	}
	s.Released(s.Name)
	s.WantCheckpoints("foreign", "check1")
	s.Check()
	for _, foreign := range s.Checkpoints() {
		testdomain.Virsh(t, "checkpoint-delete", s.Name, foreign)
	}
	doc := testdomain.Virsh(t, "dumpxml", s.Name, "--inactive")
	s.Destroy()
	if got := bitmaps(s, "vda"); got != "" {
		t.Errorf("bitmaps are left: %s", got)
	}
	testdomain.Virsh(t, "undefine", s.Name)
	file := filepath.Join(s.Dir, "again.xml")
	testsite.WriteFile(t, file, doc)
	testdomain.Virsh(t, "define", file) // for its clean-up
}

// If the domain is off its bitmaps stay: it can be undefined, defined somewhere else, and go
// on.
func TestReleaseShutOff(t *testing.T) {
	t.Parallel()
	s := chain(t)
	s.WriteAll(6)
	doc := testdomain.Virsh(t, "dumpxml", s.Name, "--inactive")
	s.Destroy()
	result := s.Released(s.Name)
	testsite.WantReleased(t, result, "check3 check2 check1", "")
	testsite.WantSaid(t, result.Notes, "the next run of a domain with this name, UUID")
	testdomain.Virsh(t, "undefine", s.Name)
	// Removing one point takes nothing from the others.
	testsite.WantReleased(t, s.Released(s.Name+"@copy5", "--points"), "", "copy5")
	s.Points = s.Points[:4]
	file := filepath.Join(s.Dir, "again.xml")
	testsite.WriteFile(t, file, doc)
	testdomain.Virsh(t, "define", file)
	s.Start()
	s.WriteAll(7)
	inc := s.BackUp(0, "inc")
	testsite.WantKinds(t, inc.Point, "vda inc")
	if inc.Point.Parent != "check3" || len(inc.Recovered) != 3 {
		t.Errorf("since %s, recovered %q", inc.Point.Parent, inc.Recovered)
	}
	s.Check()
}

// A point that others need is not removed; a point that is not needed is, with its
// checkpoint, and the others still restore.
func TestReleasePoint(t *testing.T) {
	t.Parallel()
	s := chain(t)
	for point, children := range map[string]string{"check1": "check2, diff4", "check2": "check3"} {
		s.Rejects(testsite.Reject(1, point+" of domain "+s.Name+" is not removed: "+children+" could not", "newest first"),
			[]string{"release", s.Name + "@" + point, "--points"})
	}
	s.Rejects(testsite.Reject(6, "check9", "virtbackup list"), []string{"release", s.Name + "@check9", "--points"})
	s.Rejects(testsite.Reject(6, "nosuch", "virsh list"), []string{"release", "nosuch", "--points"})
	s.Rejects(testsite.Reject(2, "DOMAIN[@POINT]", "--help"), []string{"release"})

	testsite.WantReleased(t, s.Released(s.Name+"@diff4", "--points", "--dry-run"), "", "diff4")
	testsite.WantReleased(t, s.Released(s.Name+"@diff4", "--points"), "", "diff4")
	testsite.WantReleased(t, s.Released(s.Name+"@check3", "--points"), "check3", "check3")
	s.Points = append(s.Points[:2], s.Points[4]) // check1 check2 copy5
	s.WriteAll(6)
	inc := s.BackUp(0, "inc")
	testsite.WantKinds(t, inc.Point, "vda inc")
	if inc.Point.ID != "check6" || inc.Point.Parent != "check2" {
		t.Errorf("%s since %s, want check6 since check2", inc.Point.ID, inc.Point.Parent)
	}
	s.Check()
}

// A damaged point may need any earlier one.
func TestReleaseBesideDamage(t *testing.T) {
	t.Parallel()
	s := chain(t)
	testsite.WriteFile(t, filepath.Join(s.Repo, s.Name, "check3", "manifest.json"), "{}")
	s.Rejects(testsite.Reject(1, "check3 may need it", "newest first"), []string{"release", s.Name + "@check2", "--points"})
	testsite.WantReleased(t, s.Released(s.Name, "--points", "--dry-run"), "check3 check2 check1", "copy5 diff4 check3 check2 check1")
	testsite.WantReleased(t, s.Released(s.Name+"@check3", "--points"), "check3", "check3")
	for _, id := range []string{"check1", "check2", "diff4", "copy5"} { // nothing says what they depend on
		testsite.WriteFile(t, filepath.Join(s.Repo, s.Name, id, "manifest.json"), "{}")
	}
	testsite.WantReleased(t, s.Released(s.Name, "--points"), "check2 check1", "copy5 diff4 check2 check1")
}

// Everything of a domain is removed, and nothing of others; the next chain begins at check1.
func TestReleaseAll(t *testing.T) {
	t.Parallel()
	s := chain(t)
	other := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 1 << 20}))
	other.Repo, other.Program = s.Repo, s.Program
	other.BackUp(0, "full")
	testsite.WriteFile(t, filepath.Join(s.Repo, s.Name, ".partial-check6", "vda.qcow2"), "half")
	result := s.Released(s.Name, "--points")
	testsite.WantReleased(t, result, "check3 check2 check1", "copy5 diff4 check3 check2 check1")
	if left := testsite.Listing(t, filepath.Join(s.Repo, s.Name)); left != " absent" {
		t.Errorf("left: %s", left)
	}
	s.Points = nil
	if id := s.BackUp(0, "full").Point.ID; id != "check1" {
		t.Errorf("the first point of a new chain is %s", id)
	}
	s.Check()
	other.Check()
}

// Points of a domain that libvirt does not know any more can be removed. Another domain of
// the same name is left alone.
func TestReleaseUnknownDomain(t *testing.T) {
	t.Parallel()
	s := chain(t)
	s.Destroy()
	testdomain.Virsh(t, "undefine", s.Name, "--checkpoints-metadata")
	result := s.Released(s.Name)
	testsite.WantReleased(t, result, "", "")
	testsite.WantSaid(t, result.Notes, "the points stay")
	testdomain.Virsh(t, "define", filepath.Join(s.Dir, "domain.xml")) // it gets another UUID
	s.Start()
	testdomain.Virsh(t, "checkpoint-create-as", s.Name, "its-own")
	result = s.Released(s.Name, "--points")
	testsite.WantReleased(t, result, "", "copy5 diff4 check3 check2 check1")
	testsite.WantSaid(t, result.Notes, "is another one, with another UUID")
	if got := strings.Join(s.Labels(), " "); got != "its-own" {
		t.Errorf("checkpoints: %s", got)
	}
	if left := testsite.Listing(t, filepath.Join(s.Repo, s.Name)); left != " absent" {
		t.Errorf("left: %s", left)
	}
	// The old bitmaps are still in the image: the new ones have other identities.
	s.Points = nil
	s.UUID = strings.TrimSpace(testdomain.Virsh(t, "domuuid", s.Name))
	if id := s.BackUp(0, "full").Point.ID; id != "check1" {
		t.Errorf("the first point is %s, want check1", id)
	}
	s.WriteAll(7)
	s.BackUp(0, "inc")
	s.Check()
}

// A renamed domain is found by its UUID; what it has under its new name stays.
func TestReleaseRenamed(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}))
	s.BackUp(0, "full")
	s.BackUp(0, "inc")
	old := s.Name
	t.Cleanup(func() { _ = os.Remove("/var/log/libvirt/qemu/" + old + "-new.log") })
	rename(s, old+"-new")
	s.Program.Must(t, []int{3}, "full", s.Name)
	unlock := lock(s, s.Name) // as a run of the domain does now
	s.Rejects(testsite.Reject(4, "domain "+s.Name+" is locked by process", "another run"), []string{"release", old, "--points"})
	unlock()
	result := s.Released(old, "--points")
	testsite.WantReleased(t, result, "check2 check1", "check2 check1")
	testsite.WantSaid(t, result.Notes, fmt.Sprintf("libvirt calls domain %s now %s", old, s.Name))
	if got := strings.Join(s.Labels(), " "); got != "check1" {
		t.Errorf("checkpoints: %s", got)
	}
	s.Program.Must(t, nil, "inc", s.Name)
	rename(s, old)
}

// lock takes the lock of a domain in the site's repository.
func lock(s *testsite.Site, domain string) (unlock func()) {
	s.T.Helper()
	repo, err := repository.Open(s.Repo)
	if err != nil {
		s.T.Fatal(err)
	}
	lock, err := repo.Lock(domain)
	if err != nil {
		s.T.Fatal(err)
	}
	return func() {
		if err := lock.Unlock(); err != nil {
			s.T.Error(err)
		}
	}
}

// A release that is killed at any instant leaves a point listed and whole, or a leftover that
// the next run removes.
func TestReleaseHalfWay(t *testing.T) {
	t.Parallel()
	s := chain(t)
	// What it does, in order: checkpoints, then for each point the rename and
	// the removal. Here it dies between the two.
	dir := filepath.Join(s.Repo, s.Name)
	if err := os.Rename(filepath.Join(dir, "check3"), filepath.Join(dir, ".partial-check3")); err != nil {
		t.Fatal(err)
	}
	testsite.WantReleased(t, s.Released(s.Name+"@check2", "--dry-run"), "check2", "") // without the leftover
	s.Points = s.Points[:2]
	s.WriteAll(6)
	inc := s.BackUp(0, "inc")
	testsite.WantSaid(t, inc.Recovered, "checkpoint check3")
	testsite.WantSaid(t, inc.Recovered, "the unfinished point .partial-check3")
	testsite.WantKinds(t, inc.Point, "vda inc")
	if inc.Point.Parent != "check2" {
		t.Errorf("since %s, want check2", inc.Point.Parent)
	}
	s.Check()
}

// If there is no point yet, what a killed first run has left is recognised by its identity,
// and removed before the list of identities is.
func TestReleaseAfterAKilledFirstRun(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 512 << 20}))
	s.Write("vda", 0, 384<<20, 0x42)
	p := s.Stopped("full", s.Name)
	p.Signal(syscall.SIGKILL)
	p.Wait()
	if !s.HasJob() {
		t.Fatal("the killed run has left no job")
	}
	s.Released(s.Name, "--points")
	if left := s.Checkpoints(); s.HasJob() || len(left) > 0 {
		t.Errorf("left: job %v, checkpoints %q", s.HasJob(), left)
	}
	if left := testsite.Listing(t, filepath.Join(s.Repo, s.Name)); left != " absent" {
		t.Errorf("left: %s", left)
	}
}

// A command that removes points accepts a time only if it is the point's own, and does not
// take an empty word after the @ for all points.
func TestReleaseByTime(t *testing.T) {
	t.Parallel()
	s := chain(t)
	s.Refused(2, "names no point", "release", s.Name+"@", "--points")
	second, last := s.Points[1].Manifest, s.Points[4].Manifest
	s.Refused(2, "the newest before it is "+last.ID, "release", s.Name+"@2099-01-01", "--points")
	if day := last.Time.Local().Format(time.DateOnly); second.Time.Local().Format(time.DateOnly) == day { // no midnight between them
		s.Refused(2, "names 5 points", "release", s.Name+"@"+day, "--points", "--dry-run")
	}
	s.Refused(1, "could not be restored without it", "release", s.Name+"@"+manifest.TimeTextFine(second.Time), "--points")
	testsite.WantReleased(t, s.Released(s.Name+"@"+manifest.TimeTextFine(last.Time), "--points"), "", last.ID)
}

// Checkpoints of a lost repository are listed with their full names, and deleted only by
// these.
func TestReleaseForeign(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 4 << 20}))
	gone := s.Copied()
	if err := os.RemoveAll(gone.Repo); err != nil {
		t.Fatal(err)
	}
	gone.Init()
	gone.BackUp(0, "full")
	gone.BackUp(0, "inc")
	gone.BackUp(0, "inc")
	if err := os.RemoveAll(gone.Repo); err != nil {
		t.Fatal(err)
	}
	s.BackUp(0, "full")
	testdomain.Virsh(t, "checkpoint-create-as", s.Name, "somebody-elses")
	foreign := func(args ...string) (result release.ForeignResult) {
		t.Helper()
		r := s.Program.Must(t, nil, append([]string{"release", s.Name, "--foreign", "--json"}, args...)...)
		if err := json.Unmarshal([]byte(r.Stdout), &result); err != nil {
			t.Fatal(err)
		}
		return result
	}
	there := foreign().Foreign
	if len(there) != 3 || there[0].Point != "check1" || there[1].Point != "check2" || there[0].Repository != gone.Points[0].Repository {
		t.Fatalf("listed: %+v", there)
	}
	for _, name := range []string{"somebody-elses", "check1", s.Points[0].Checkpoint} {
		s.Refused(6, "nothing is deleted", "release", s.Name, "--foreign", there[0].Name, name)
	}
	repo, err := repository.Open(s.Repo)
	if err != nil {
		t.Fatal(err)
	}
	lock, err := repo.Lock(s.Name)
	if err != nil {
		t.Fatal(err)
	}
	s.Refused(4, "is locked by process", "release", s.Name, "--foreign", there[0].Name)
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}
	foreign("--dry-run", there[0].Name)
	if all := foreign().Foreign; len(all) != 3 {
		t.Errorf("after what was refused, and a dry run: %+v", all)
	}
	if r := foreign(there[0].Name); len(r.Deleted) != 1 {
		t.Errorf("deleted: %+v", r)
	}
	// What was deleted before an error is reported.
	r := s.StartBroken("delete checkpoint before#2:error", nil, "release", "--foreign", there[1].Name, there[2].Name).Wait()
	if r.Code != 1 || !strings.Contains(r.Stderr, "removed checkpoint: "+there[1].Name) || strings.Contains(r.Stderr, "removed checkpoint: "+there[2].Name) {
		t.Errorf("exit %d: %s", r.Code, r.Stderr)
	}
	if left := foreign().Foreign; len(left) != 1 || left[0].Name != there[2].Name {
		t.Errorf("left: %+v", left)
	}
	s.BackUp(0, "inc")
	s.WantCheckpoints("check1", "check2", "check3", "somebody-elses")
	// If instants.json is damaged no checkpoint is known to be ours, but ours do not count as foreign either.
	instants := filepath.Join(s.Repo, s.Name, "instants.json")
	sound, err := os.ReadFile(instants)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(instants, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if left := foreign().Foreign; len(left) != 1 || left[0].Name != there[2].Name {
		t.Errorf("left, with instants.json damaged: %+v", left)
	}
	if err := os.WriteFile(instants, sound, 0o600); err != nil {
		t.Fatal(err)
	}
	s.Check()
}
