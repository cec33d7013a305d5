package tests

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/backup"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/release"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// With --json a failure is an object on standard output, or an element of the array in
// the place of the domain's result.
func TestFailuresInJSON(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 4 << 20}))
	type failure struct {
		Domain, Error, Hint string
		ExitCode            int `json:"exit_code"`
	}
	nobody := testdomain.NewName()
	for _, args := range [][]string{{"inc", nobody}, {"show", nobody}, {"restore", s.Name, "--to", s.Dir + "/r"}, {"checkpoint", "list", nobody}, {"release", nobody}} {
		r := s.program.Must(t, []int{6}, append(args, "--json")...)
		var f failure
		if err := json.Unmarshal([]byte(r.Stdout), &f); err != nil || f.Error == "" || f.Hint == "" || f.ExitCode != 6 {
			t.Errorf("%v: %v %+v", args, err, f)
		}
		if !strings.Contains(r.Stderr, "error: "+f.Error+"\nhint: "+f.Hint+"\n") {
			t.Errorf("%v: for people: %s", args, r.Stderr)
		}
	}
	r := s.program.Must(t, []int{6}, "auto", nobody, s.Name, "--json")
	var results []json.RawMessage
	if err := json.Unmarshal([]byte(r.Stdout), &results); err != nil || len(results) != 2 {
		t.Fatalf("%v: %s", err, r.Stdout)
	}
	var f failure
	var done backup.Result
	if err := json.Unmarshal(results[0], &f); err != nil || f.Domain != nobody || f.ExitCode != 6 {
		t.Errorf("%v: the failure %s", err, results[0])
	}
	if err := json.Unmarshal(results[1], &done); err != nil || done.Point.ID != "check1" {
		t.Errorf("%v: the result %s", err, results[1])
	}
}

// A report that cannot be printed is no failure of the run that it is about.
func TestReportOnAFullDevice(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 4 << 20}))
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for _, args := range [][]string{{"full", s.Name}, {"inc", s.Name, "--json"}, {"auto", s.Name, s.Name}, {"restore", s.Name, "--to", s.Dir + "/restored"}, {"release", s.Name}} {
		cmd := exec.Command(testdomain.Binary(t), args...)
		cmd.Env = append(os.Environ(), s.program.Env...)
		cmd.Stdout = full
		stderr := &strings.Builder{}
		cmd.Stderr = stderr
		_ = cmd.Run()
		if code := cmd.ProcessState.ExitCode(); code != 3 || !strings.Contains(stderr.String(), "warning: done, but the report of it is not complete") || strings.Contains(stderr.String(), "removed") {
			t.Errorf("%v: exit %d, %s", args, code, stderr)
		}
	}
	if list := s.program.Must(t, nil, "list", s.Name, "--quiet").Stdout; strings.Count(list, s.Name+"@check") != 4 {
		t.Errorf("listed: %s", list)
	}
	if _, err := os.Stat(s.Dir + "/restored/vda.qcow2"); err != nil {
		t.Error(err)
	}
}

// Disks that are not in a point are named with the reason, wherever a person looks.
func TestLeftOutDisks(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 4 << 20}, testdomain.Disk{Target: "vdb", Size: 4 << 20},
		testdomain.Disk{Target: "vdc", Size: 4 << 20, ReadOnly: true}, testdomain.Disk{Target: "hda", Device: "cdrom"}))
	report := s.program.Must(t, nil, "full", s.Name, "--exclude", "vdb").Stdout
	show := s.program.Must(t, nil, "show", s.Name).Stdout
	for target, reason := range map[string]string{"vdb": "not chosen", "vdc": "read-only", "hda": "cdrom"} {
		words := fmt.Sprintf("disk %s (%s)", target, reason)
		if strings.Count(report, words) != 1 || strings.Count(show, words) != 1 {
			t.Errorf("%s: the report\n%s\nshow\n%s", words, report, show)
		}
	}
	var m manifest.Manifest
	if err := json.Unmarshal([]byte(s.program.Must(t, nil, "show", s.Name, "--json").Stdout), &m); err != nil || len(m.LeftOut) != 3 {
		t.Errorf("%v: %v", err, m.LeftOut)
	}
}

// A checkpoint that is retired is said to be so once.
func TestRetiredIsSaidOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 4 << 20}))
	for _, kind := range []string{"full", "inc"} {
		s.program.Must(t, nil, kind, s.Name)
	}
	said := s.program.Must(t, nil, "inc", s.Name, "--keep-checkpoints", "1").Stderr
	if strings.Count(said, "checkpoint check2") != 1 || !strings.Contains(said, "retired checkpoint check2: only the newest") {
		t.Error(said)
	}
}

// libvirt allows @ in names, also where a point could be meant.
func TestDomainWithAtInItsName(t *testing.T) {
	t.Parallel()
	d := testdomain.DefineAs(t, testdomain.Identity{Name: testdomain.NewName() + "@check2"}, testdomain.Disk{Target: "vda", Size: 4 << 20})
	d.Start()
	s := newSite(t, d)
	s.writeAll(1)
	s.backUp(0, "full")
	s.writeAll(2)
	s.backUp(0, "auto")
	for _, args := range [][]string{{"list", s.Name}, {"show", s.Name}, {"show", s.Name + "@check1"}, {"verify", s.Name}, {"verify", s.Name + "@latest"}, {"recover", s.Name}} {
		if r := s.program.Must(t, nil, args...); !strings.Contains(r.Stdout, s.Name) {
			t.Errorf("%v: %s", args, r.Stdout)
		}
	}
	for i, args := range [][]string{{s.Name + "@check1"}, {s.Name, "--at", "check1"}} {
		dir := filepath.Join(s.Dir, fmt.Sprint("restored", i))
		s.program.Must(t, nil, append([]string{"restore", "--to", dir}, args...)...)
		testdomain.Tool(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", s.points[0].truth["vda"], filepath.Join(dir, "vda.qcow2"))
	}
	wantReleased(t, s.released(s.Name+"@check2"), "check2", "")
	wantReleased(t, s.released(s.Name, "--points"), "check1", "check2 check1")
}

// What removes points takes a time only if it is the point's own, and never all points
// for an empty word behind the @.
func TestReleaseByTime(t *testing.T) {
	t.Parallel()
	s := chain(t)
	s.refused(2, "names no point", "release", s.Name+"@", "--points")
	second, last := s.points[1].Manifest, s.points[4].Manifest
	s.refused(2, "the newest before it is "+last.ID, "release", s.Name+"@2099-01-01", "--points")
	if day := last.Time.Local().Format(time.DateOnly); second.Time.Local().Format(time.DateOnly) == day { // no midnight between them
		s.refused(2, "names 5 points", "release", s.Name+"@"+day, "--points", "--dry-run")
	}
	s.refused(1, "could not be restored without it", "release", s.Name+"@"+manifest.TimeTextFine(second.Time), "--points")
	wantReleased(t, s.released(s.Name+"@"+manifest.TimeTextFine(last.Time), "--points"), "", last.ID)
}

// Checkpoints of a repository that is gone are listed with their full names, and deleted
// by these alone.
func TestReleaseForeign(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 4 << 20}))
	gone := s.copied()
	if err := os.RemoveAll(gone.repo); err != nil {
		t.Fatal(err)
	}
	gone.init()
	gone.backUp(0, "full")
	gone.backUp(0, "inc")
	gone.backUp(0, "inc")
	if err := os.RemoveAll(gone.repo); err != nil {
		t.Fatal(err)
	}
	s.backUp(0, "full")
	testdomain.Virsh(t, "checkpoint-create-as", s.Name, "somebody-elses")
	foreign := func(args ...string) (result release.ForeignResult) {
		t.Helper()
		r := s.program.Must(t, nil, append([]string{"release", s.Name, "--foreign", "--json"}, args...)...)
		if err := json.Unmarshal([]byte(r.Stdout), &result); err != nil {
			t.Fatal(err)
		}
		return result
	}
	there := foreign().Foreign
	if len(there) != 3 || there[0].Point != "check1" || there[1].Point != "check2" || there[0].Repository != gone.points[0].Repository {
		t.Fatalf("listed: %+v", there)
	}
	for _, name := range []string{"somebody-elses", "check1", s.points[0].Checkpoint} {
		s.refused(6, "nothing is deleted", "release", s.Name, "--foreign", there[0].Name, name)
	}
	repo, err := repository.Open(s.repo)
	if err != nil {
		t.Fatal(err)
	}
	lock, err := repo.Lock(s.Name)
	if err != nil {
		t.Fatal(err)
	}
	s.refused(4, "is locked by process", "release", s.Name, "--foreign", there[0].Name)
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
	// What was deleted before an error is told.
	r := s.startBroken("delete checkpoint before#2:error", nil, "release", "--foreign", there[1].Name, there[2].Name).Wait()
	if r.Code != 1 || !strings.Contains(r.Stderr, "removed checkpoint: "+there[1].Name) || strings.Contains(r.Stderr, "removed checkpoint: "+there[2].Name) {
		t.Errorf("exit %d: %s", r.Code, r.Stderr)
	}
	if left := foreign().Foreign; len(left) != 1 || left[0].Name != there[2].Name {
		t.Errorf("left: %+v", left)
	}
	s.backUp(0, "inc")
	s.wantCheckpoints("check1", "check2", "check3", "somebody-elses")
	// Where instants.json is damaged no checkpoint is known to be ours, and ours are not another's all the same.
	instants := filepath.Join(s.repo, s.Name, "instants.json")
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
	s.check()
}
