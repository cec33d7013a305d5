package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/backup"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// With --json a failure is an object on standard output, or the element of the array that
// the domain's result would be.
func TestFailuresInJSON(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 4 << 20}))
	type failure struct {
		Domain, Error, Hint string
		ExitCode            int `json:"exit_code"`
	}
	nobody := testdomain.NewName()
	for _, args := range [][]string{{"inc", nobody}, {"show", nobody}, {"restore", s.Name, "--to", s.Dir + "/r"}, {"checkpoint", "list", nobody}, {"release", nobody}} {
		r := s.Program.Must(t, []int{6}, append(args, "--json")...)
		var f failure
		if err := json.Unmarshal([]byte(r.Stdout), &f); err != nil || f.Error == "" || f.Hint == "" || f.ExitCode != 6 {
			t.Errorf("%v: %v %+v", args, err, f)
		}
		if !strings.Contains(r.Stderr, "error: "+f.Error+"\nhint: "+f.Hint+"\n") {
			t.Errorf("%v: for people: %s", args, r.Stderr)
		}
	}
	r := s.Program.Must(t, []int{6}, "auto", nobody, s.Name, "--json")
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

// A report that cannot be printed does not make the run a failure.
func TestReportOnAFullDevice(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 4 << 20}))
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for _, args := range [][]string{{"full", s.Name}, {"inc", s.Name, "--json"}, {"auto", s.Name, s.Name}, {"restore", s.Name, "--to", s.Dir + "/restored"}, {"release", s.Name}} {
		cmd := exec.Command(testdomain.Binary(t), args...)
		cmd.Env = append(os.Environ(), s.Program.Env...)
		cmd.Stdout = full
		stderr := &strings.Builder{}
		cmd.Stderr = stderr
		_ = cmd.Run()
		if code := cmd.ProcessState.ExitCode(); code != 3 || !strings.Contains(stderr.String(), "warning: done, but the report of it is not complete") || strings.Contains(stderr.String(), "removed") {
			t.Errorf("%v: exit %d, %s", args, code, stderr)
		}
	}
	if list := s.Program.Must(t, nil, "list", s.Name, "--quiet").Stdout; strings.Count(list, s.Name+"@check") != 4 {
		t.Errorf("listed: %s", list)
	}
	if _, err := os.Stat(s.Dir + "/restored/vda.qcow2"); err != nil {
		t.Error(err)
	}
}

// Disks that are not in a point are named with the reason, in every command's output.
func TestLeftOutDisks(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 4 << 20}, testdomain.Disk{Target: "vdb", Size: 4 << 20},
		testdomain.Disk{Target: "vdc", Size: 4 << 20, ReadOnly: true}, testdomain.Disk{Target: "hda", Device: "cdrom"}))
	report := s.Program.Must(t, nil, "full", s.Name, "--exclude", "vdb").Stdout
	show := s.Program.Must(t, nil, "show", s.Name).Stdout
	for target, reason := range map[string]string{"vdb": "not chosen", "vdc": "read-only", "hda": "cdrom"} {
		words := fmt.Sprintf("disk %s (%s)", target, reason)
		if strings.Count(report, words) != 1 || strings.Count(show, words) != 1 {
			t.Errorf("%s: the report\n%s\nshow\n%s", words, report, show)
		}
	}
	var m manifest.Manifest
	if err := json.Unmarshal([]byte(s.Program.Must(t, nil, "show", s.Name, "--json").Stdout), &m); err != nil || len(m.LeftOut) != 3 {
		t.Errorf("%v: %v", err, m.LeftOut)
	}
}

// Retiring a checkpoint is reported once.
func TestRetiredIsSaidOnce(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 4 << 20}))
	for _, kind := range []string{"full", "inc"} {
		s.Program.Must(t, nil, kind, s.Name)
	}
	said := s.Program.Must(t, nil, "inc", s.Name, "--keep-checkpoints", "1").Stderr
	if strings.Count(said, "checkpoint check2") != 1 || !strings.Contains(said, "retired checkpoint check2: only the newest") {
		t.Error(said)
	}
}

// libvirt allows @ in names, even if what follows looks like a point.
func TestDomainWithAtInItsName(t *testing.T) {
	t.Parallel()
	d := testdomain.DefineAs(t, testdomain.Identity{Name: testdomain.NewName() + "@check2"}, testdomain.Disk{Target: "vda", Size: 4 << 20})
	d.Start()
	s := testsite.New(t, d)
	s.WriteAll(1)
	s.BackUp(0, "full")
	s.WriteAll(2)
	s.BackUp(0, "auto")
	for _, args := range [][]string{{"list", s.Name}, {"show", s.Name}, {"show", s.Name + "@check1"}, {"verify", s.Name}, {"verify", s.Name + "@latest"}, {"recover", s.Name}} {
		if r := s.Program.Must(t, nil, args...); !strings.Contains(r.Stdout, s.Name) {
			t.Errorf("%v: %s", args, r.Stdout)
		}
	}
	for i, args := range [][]string{{s.Name + "@check1"}, {s.Name, "--at", "check1"}} {
		dir := filepath.Join(s.Dir, fmt.Sprint("restored", i))
		s.Program.Must(t, nil, append([]string{"restore", "--to", dir}, args...)...)
		testdomain.Tool(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", s.Points[0].Truth["vda"], filepath.Join(dir, "vda.qcow2"))
	}
	testsite.WantReleased(t, s.Released(s.Name+"@check2"), "check2", "")
	testsite.WantReleased(t, s.Released(s.Name, "--points"), "check1", "check2 check1")
}
