package damage

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// hostileText moves the cursor, hides what follows and sets the title of a terminal, in
// the forms that terminals know: ESC, C1 in UTF-8, DEL, and text that runs backwards.
const hostileText = "gone\x1b[2J\x1b]0;owned\x07\u009b31m\x7f\u202exxx"

// Text from a repository that others could write to never reaches a terminal unescaped.
func TestHostileTexts(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 1 << 20}))
	s.Write("vda", 0, 64<<10, 0x41)
	s.BackUp(0, "full")
	s.Write("vda", 0, 64<<10, 0x42)
	s.BackUp(0, "inc")
	encoded, err := json.Marshal(hostileText)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Trim(string(encoded), `"`)
	manifest := filepath.Join(s.Repo, s.Name, "check2", "manifest.json")
	for _, edit := range [][2]string{
		{`"source": "`, `"reason": "` + text + `", "source": "` + text},
		{`"libvirt": "`, `"libvirt": "` + text},
		{`"files": {`, `"warnings": ["` + text + `"], "files": {`},
	} {
		if err := forge(manifest, edit[0], edit[1]); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"check9\x1b[2J", hostileText, "vm\u202e1"} {
		for _, dir := range []string{filepath.Join(s.Repo, name), filepath.Join(s.Repo, s.Name, name)} {
			if err := os.MkdirAll(filepath.Join(dir, "check1"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, line := range []string{"list", "list NAME", "show NAME@check2", "verify", "verify NAME", "restore NAME --at check2 --to " + s.Dir + "/r",
		"restore NAME --at check1 --disk " + hostileText + " --to " + s.Dir + "/r1", "inc NAME", "auto NAME", "list --json", "show --json NAME@check2", "verify --json"} {
		r := s.Program.Run(t, strings.Fields(strings.ReplaceAll(line, "NAME", s.Name))...)
		testsite.WantNoControls(t, line+" (standard output)", r.Stdout)
		testsite.WantNoControls(t, line+" (standard error)", r.Stderr)
		if strings.Contains(line, "--json") && !json.Valid([]byte(r.Stdout)) {
			t.Errorf("%s: no JSON: %s", line, r.Stdout)
		}
		if line == "show NAME@check2" && !strings.Contains(r.Stdout, `gone\u001b[2J`) {
			t.Error("what is not printed as it is cannot be read at all")
		}
	}
}

// loose runs virtbackup with the umask 0.
func loose(s *testsite.Site) testdomain.Program {
	s.T.Helper()
	script := filepath.Join(s.Dir, "loose")
	testsite.WriteFile(s.T, script, fmt.Sprintf("#!/bin/sh\numask 000\nexec %s \"$@\"\n", testdomain.Binary(s.T)))
	if err := os.Chmod(script, 0o755); err != nil {
		s.T.Fatal(err)
	}
	return testdomain.Program{Binary: script, Env: s.Program.Env}
}

// wantPrivate: directories below dir have mode 0700 and files 0600, and are root's.
func wantPrivate(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if e.IsDir() {
			want = 0o700 | fs.ModeDir
		}
		if uid := info.Sys().(*syscall.Stat_t).Uid; info.Mode() != want || uid != 0 {
			t.Errorf("%s has mode %v and belongs to %d", path, info.Mode(), uid)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// What virtbackup makes is accessible to root only, and sockets and scratch files to QEMU's
// user, whatever the umask and the modes of the directories are.
func TestModes(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 64 << 20}))
	s.Write("vda", 0, 24<<20, 0x41)
	program := loose(s)
	top := testdomain.TempDir(t)
	open := filepath.Join(top, "open")
	run := filepath.Join(top, "run")
	for _, dir := range []string{open, run} {
		if err := errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o777|fs.ModeSticky)); err != nil {
			t.Fatal(err)
		}
	}
	for _, repo := range []string{filepath.Join(top, "new"), open} {
		program.Env = []string{"VIRTBACKUP_REPO=" + repo}
		program.Must(t, nil, "init")
		p := program.Start(t, "full", s.Name, "--limit-rate", "16M", "--socket-dir", run, "--scratch-dir", run)
		wantModesOfRun(s, run)
		if r := p.Wait(); r.Code != 0 && r.Code != 3 {
			t.Fatalf("exit %d", r.Code)
		}
		program.Must(t, nil, "verify")
		program.Must(t, []int{0, 3}, "inc", s.Name)
		wantPrivate(t, repo)
		to := filepath.Join(top, "a"+filepath.Base(repo), "b")
		program.Must(t, nil, "restore", s.Name, "--to", to)
		wantPrivate(t, filepath.Dir(to))
		if info, err := os.Stat(filepath.Dir(to)); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("restore made %v, %v", info.Mode(), err)
		}
	}
	if info, err := os.Stat(filepath.Join(top, "new")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("init made %v, %v", info.Mode(), err)
	}
}

// wantModesOfRun waits for the job, and checks the modes of its socket and scratch files.
func wantModesOfRun(s *testsite.Site, run string) {
	s.T.Helper()
	for start := time.Now(); time.Since(start) < time.Minute; time.Sleep(10 * time.Millisecond) {
		files, err := os.ReadDir(run)
		if err != nil {
			s.T.Fatal(err)
		}
		if len(files) < 2 || !s.HasJob() {
			continue
		}
		for _, f := range files {
			info, err := f.Info()
			if err != nil {
				s.T.Fatal(err)
			}
			switch mode := info.Mode(); {
			case mode&fs.ModeSocket != 0 && mode.Perm()&0o002 == 0: // connect(2) needs to write
			case mode.IsRegular() && mode.Perm()&0o077 == 0:
			default:
				s.T.Errorf("%s has mode %v", f.Name(), mode)
			}
		}
		return
	}
	s.T.Fatal("no socket and scratch file after a minute")
}

// A pipe in place of a file of the repository hangs no command, and no run while the guest's
// job is open.
func TestPipesInTheRepository(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 1 << 20}))
	s.Write("vda", 0, 64<<10, 0x41)
	s.BackUp(0, "full")
	s.Program.Max = time.Minute
	for _, name := range []string{"lock", "instants.json", ".instants.json", "verified.json", ".mark-frozen", ".mark-paused", ".mark-lost", ".partial-check9"} {
		path := filepath.Join(s.Repo, s.Name, name)
		kept := path + ".kept"
		had := os.Rename(path, kept) == nil
		if err := unix.Mkfifo(path, 0o666); err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{"list", "verify NAME", "inc NAME", "recover NAME"} {
			r := s.Program.Run(t, strings.Fields(strings.ReplaceAll(line, "NAME", s.Name))...)
			t.Logf("%s: %s: exit %d", name, line, r.Code)
			if s.HasJob() {
				t.Errorf("%s: %s leaves a job", name, line)
			}
		}
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		if had {
			if err := os.Rename(kept, path); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.Program.Must(t, []int{0, 3}, "inc", s.Name)
}

// The digests have no key: anyone who can write to the repository can forge a point that
// cannot be told from a true one. This shows what they do not prove.
func TestForgedPoint(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 1 << 20}))
	s.Write("vda", 0, 64<<10, 0x41)
	s.BackUp(0, "full")
	image := s.Image(s.Points[0].Manifest, "vda")
	testdomain.QemuIO(t, image, "qcow2", "write -P 0x66 0 64k")
	s.Program.Must(t, []int{5}, "verify")
	if err := rehash(filepath.Dir(image), "vda"); err != nil {
		t.Fatal(err)
	}
	s.Program.Must(t, nil, "verify")
	s.Program.Must(t, nil, "restore", s.Name, "--to", filepath.Join(s.Dir, "forged"))
	testdomain.QemuIO(t, filepath.Join(s.Dir, "forged", "vda.qcow2"), "qcow2", "read -P 0x66 0 64k")
}

// A forged disk of 1 PiB costs neither memory nor much time.
func TestHugeDisk(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 1 << 20}))
	s.Write("vda", 0, 64<<10, 0x41)
	s.BackUp(0, "full")
	image := s.Image(s.Points[0].Manifest, "vda")
	testdomain.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", image, "1P")
	manifest := filepath.Join(filepath.Dir(image), "manifest.json")
	if err := errors.Join(rehash(filepath.Dir(image), "vda"),
		forge(manifest, `"virtual_size": 1048576`, fmt.Sprintf(`"virtual_size": %d`, int64(1)<<50))); err != nil {
		t.Fatal(err)
	}
	s.Program.Max = time.Minute
	for _, line := range []string{"list", "verify", "restore NAME --to " + s.Dir + "/huge"} {
		p := s.Program.Start(t, strings.Fields(strings.ReplaceAll(line, "NAME", s.Name))...)
		peak := make(chan int64, 1)
		go func() { peak <- peakOf(p.Cmd.Process.Pid) }()
		p.Wait()
		// The budget of a backup is 96 MiB and 32 for the disk.
		if kib := <-peak; kib == 0 || kib > 160<<10 {
			t.Errorf("%s takes %d KiB of memory", line, kib)
		}
	}
}

// peakOf is the peak memory of a process, in KiB, as seen until it ended. getrusage(2) would
// count the memory of the tests, which it was forked from.
func peakOf(pid int) (kib int64) {
	for ; ; time.Sleep(time.Millisecond) {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		_, after, ok := strings.Cut(string(status), "\nVmHWM:")
		if !ok { // it has ended
			return kib
		}
		if exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); strings.Contains(filepath.Base(exe), "virtbackup") {
			_, _ = fmt.Sscan(after, &kib)
		}
	}
}

// Links that another user has planted are not followed: what they point to is neither read
// into a point, nor written to, nor removed.
func TestPlantedLinks(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 1 << 20}))
	s.Write("vda", 0, 64<<10, 0x41)
	s.BackUp(0, "full")
	run, outside := testdomain.TempDir(t), testdomain.TempDir(t)
	if err := os.Chmod(run, 0o777|fs.ModeSticky); err != nil {
		t.Fatal(err)
	}
	victim := filepath.Join(outside, "dir", "victim")
	testsite.WriteFile(t, victim, "not yours")
	before := testsite.Listing(t, outside)
	var issued struct{ Issued []struct{ Identity string } }
	text, err := os.ReadFile(filepath.Join(s.Repo, s.Name, "instants.json"))
	if err := errors.Join(err, json.Unmarshal(text, &issued)); err != nil || len(issued.Issued) == 0 {
		t.Fatalf("instants.json: %v", err)
	}
	var description struct{ ID string }
	text, err = os.ReadFile(filepath.Join(s.Repo, "repository.json"))
	if err := errors.Join(err, json.Unmarshal(text, &description)); err != nil {
		t.Fatal(err)
	}
	// No user can know the identity of a run beforehand: the worst is that of an earlier run.
	known := fmt.Sprintf("virtbackup-%.8s-%.8s-%s", description.ID, s.UUID, issued.Issued[0].Identity)
	for path, to := range map[string]string{
		filepath.Join(s.Repo, ".repository.json-lock"):      victim,
		filepath.Join(s.Repo, s.Name, ".instants.json"):     victim,
		filepath.Join(s.Repo, s.Name, "verified.json"):      victim,
		filepath.Join(s.Repo, s.Name, ".partial-check2"):    filepath.Dir(victim),
		filepath.Join(s.Repo, s.Name, ".partial-check3"):    filepath.Dir(victim),
		filepath.Join(s.Repo, s.Name, "check8"):             filepath.Dir(victim),
		filepath.Join(run, known+".sock"):                   victim,
		filepath.Join(run, known+"-vda.scratch"):            victim,
		filepath.Join(run, "virtbackup-x-y-z-vda.scratch"):  victim,
		filepath.Join(s.Repo, s.Name, ".mark-not-of-a-run"): victim,
	} {
		if err := os.Symlink(to, path); err != nil {
			t.Fatal(err)
		}
	}
	for _, line := range []string{"inc NAME", "verify NAME", "recover NAME", "full NAME", "list NAME"} {
		args := strings.Fields(strings.ReplaceAll(line, "NAME", s.Name))
		if line == "inc NAME" || line == "full NAME" || line == "recover NAME" {
			args = append(args, "--socket-dir", run, "--scratch-dir", run)
		}
		r := s.Program.Run(t, args...)
		t.Logf("%s: exit %d", line, r.Code)
		if after := testsite.Listing(t, outside); after != before {
			t.Fatalf("%s has changed what is outside: %s, was %s", line, after, before)
		}
		if text, err := os.ReadFile(victim); err != nil || string(text) != "not yours" {
			t.Fatalf("%s: the victim is %q, %v", line, text, err)
		}
	}
	for _, name := range []string{".mark-frozen", ".mark-paused", "lock", "instants.json"} {
		path := filepath.Join(s.Repo, s.Name, name)
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(victim, path); err != nil {
			t.Fatal(err)
		}
		r := s.Program.Run(t, "inc", s.Name)
		t.Logf("%s is a link: exit %d", name, r.Code)
		if text, err := os.ReadFile(victim); err != nil || string(text) != "not yours" {
			t.Errorf("%s is a link: the victim is %q, %v", name, text, err)
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(s.Repo, s.Name, "check8")); err != nil {
		t.Fatal(err)
	}
	s.Program.Must(t, []int{0, 3}, "inc", s.Name)
	s.Check()
}
