package inplace

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// answered runs a restore on a terminal (script(1)), and types an answer.
func answered(t *testing.T, s *testsite.Site, answer string, args ...string) (code int, output string) {
	t.Helper()
	command := testdomain.Binary(t)
	for _, arg := range args {
		command += " '" + arg + "'"
	}
	cmd := exec.Command("script", "-qec", command, "/dev/null")
	cmd.Env = append(os.Environ(), s.Program.Env...)
	cmd.Stdin = strings.NewReader(answer)
	out, err := cmd.CombinedOutput()
	t.Logf("%s, answer %q: %v\n%s", command, answer, err, out)
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// It says what it overwrites, and asks; "no", and the end of the input, change nothing.
func TestQuestion(t *testing.T) {
	t.Parallel()
	s := small(t)
	args := []string{"restore", s.Name + "@check1", "--in-place", "--no-save"}
	before := digests(t, s.Dir, s.Repo)
	for _, answer := range []string{"no\n", "\n", "what?\nn\n"} {
		code, out := answered(t, s, answer, args...)
		if code != 1 || !strings.Contains(out, "not confirmed: nothing was overwritten") || !strings.Contains(out, "Overwrite? [yes/no]") {
			t.Errorf("answer %q: exit %d", answer, code)
		}
		for _, said := range []string{s.Disk("vda").Source, s.Disk("vdb").Source, "put back to check1", "what was written since check2", "by the bitmap since check1"} {
			if !strings.Contains(out, said) {
				t.Errorf("it does not say %q", said)
			}
		}
		if after := digests(t, s.Dir, s.Repo); !maps.Equal(before, after) {
			t.Errorf("answer %q: files were changed", answer)
		}
	}
	if code, _ := answered(t, s, "what?\nyes\n", args...); code != 0 {
		t.Errorf("answer yes: exit %d", code)
	}
	wantPoint(t, s, pointOf(t, s, "check1"))
}

// Asked before the domain is shut down, it names all files that it may overwrite.
func TestQuestionBeforeShutdown(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.NewWithExtras(t, testdomain.Disk{Target: "vda", Size: 4 * mib}))
	s.Program.Must(t, []int{0, 3}, "full", s.Name)
	testdomain.Virsh(t, "resume", s.Name)
	code, out := answered(t, s, "no\n", "restore", s.Name+"@check1", "--in-place", "--force")
	if code != 1 {
		t.Errorf("exit %d", code)
	}
	for _, name := range []string{"vars.fd", "vmlinuz", "initrd.gz"} {
		if said := "overwritten, too: " + filepath.Join(s.Dir, name); !strings.Contains(out, said) {
			t.Errorf("it does not say %q", said)
		}
	}
	if s.State() == "shut" {
		t.Error("it was shut down")
	}
}

// While it writes, the domain does not start, whatever its disks are.
func TestStartMeanwhile(t *testing.T) {
	t.Parallel()
	for _, target := range []string{"vda", "vdb"} {
		s := small(t)
		p := s.Program
		p.Binary, p.Env = testdomain.FaultyBinary(t), append(p.Env, "VIRTBACKUP_FAULT=in place: write#1:pause")
		run := p.Start(t, "restore", s.Name+"@check1", "--in-place", "--yes", "--no-save", "--disk", target)
		testsite.AwaitStopped(t, run)
		if out, err := testdomain.TryVirsh(t, "start", s.Name, "--paused"); err == nil {
			t.Errorf("disk %s: the domain starts while it is restored: %s", target, out)
			s.Destroy()
		} else if log, _ := os.ReadFile("/var/log/libvirt/qemu/" + s.Name + ".log"); !strings.Contains(err.Error()+string(log), "lock") {
			t.Errorf("disk %s: %v", target, err) // libvirt does not always come to read what QEMU says
		}
		testsite.Continue(run)
		if r := run.Wait(); r.Code != 0 && r.Code != 3 {
			t.Errorf("exit %d", r.Code)
		}
		wantPoint(t, s, pointOf(t, s, "check1"), target)
	}
}

// Where libvirt gives a domain a node of its own for a block device, QEMU's locks on that are not
// seen, and the domain starts: before the first write that is refused, later it is an error.
func TestStartOnDeviceMeanwhile(t *testing.T) {
	t.Parallel()
	s := onDevice(t)
	for point, changed := range map[string]bool{"in place: begin before": false, "in place: close before": true} {
		p := s.Program
		p.Binary, p.Env = testdomain.FaultyBinary(t), append(p.Env, "VIRTBACKUP_FAULT="+point+":pause")
		before := testdomain.Tool(t, "md5sum", s.Disk("vda").Source)
		run := p.Start(t, "restore", s.Name+"@check1", "--in-place", "--yes", "--no-save")
		testsite.AwaitStopped(t, run)
		_, err := testdomain.TryVirsh(t, "start", s.Name, "--paused")
		testsite.Continue(run)
		r := run.Wait()
		if err != nil { // it shares the node of its device with the host
			break
		}
		if r.Code != 1 || !strings.Contains(r.Stderr, "was started meanwhile") {
			t.Errorf("%s: exit %d", point, r.Code)
		}
		if after := testdomain.Tool(t, "md5sum", s.Disk("vda").Source); (after != before) != changed {
			t.Errorf("%s: the device was changed: %v", point, after != before)
		}
		s.Destroy()
	}
	restored(t, s, "check1", "--no-save")
	wantPoint(t, s, pointOf(t, s, "check1"))
}

// A guest that runs is shut down in order, once that is confirmed.
func TestForce(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.NewGuest(t, testdomain.Disk{Target: "vda", Size: 64 * mib}))
	s.Init()
	s.MayWarn = true
	s.WriteFile("/mnt/one", []byte("first"))
	s.Program.Must(t, []int{0, 3}, "full", s.Name)
	s.WriteFile("/mnt/one", []byte("second"))
	r := s.Program.Must(t, []int{0, 3}, "--json", "restore", s.Name+"@check1", "--in-place", "--yes", "--force", "--stop-time", "2m")
	if !strings.Contains(r.Stdout, `"stopped": true`) {
		t.Error("the result does not say that the domain is off now")
	}
	if !strings.Contains(r.Stderr, "is shut down first") {
		t.Error("it does not say that the domain is shut down")
	}
	if result := resultOf(t, r); result.Saved != "check2" {
		t.Errorf("%+v", result)
	}
	raw := filepath.Join(s.Dir, "restored.raw")
	testdomain.Flatten(t, s.Disk("vda").Source, raw)
	testdomain.Fsck(t, raw)
	if got := string(testdomain.GuestFile(t, raw, "/one")); got != "first" {
		t.Errorf("the file holds %q", got)
	}
}

// A point of the present state that was made is named, also if the answer is no.
func TestSavedAndDeclined(t *testing.T) {
	t.Parallel()
	s := small(t)
	code, out := answered(t, s, "no\n", "restore", s.Name+"@check1", "--in-place")
	if code != 1 || !strings.Contains(out, "the point of the present state, check3, was made and stays") {
		t.Errorf("exit %d", code)
	}
	if list := s.Program.Must(t, nil, "list", s.Name, "--quiet").Stdout; !strings.Contains(list, "check3") {
		t.Errorf("the points are %s", list)
	}
}
