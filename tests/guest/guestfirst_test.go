package guest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// startSlowly starts a run that takes a minute or more, and waits until it copies.
func startSlowly(s *testsite.Site, args ...string) *testdomain.Process {
	s.T.Helper()
	p := s.Program.Start(s.T, append(args, s.Name, "--limit-rate", "1M", "--verbose")...)
	testsite.Await(s.T, "copy", 20*time.Millisecond, func() bool {
		images, _ := filepath.Glob(filepath.Join(s.Repo, s.Name, ".partial-*", "*.qcow2"))
		return len(images) > 0 && s.HasJob()
	})
	return p
}

// wantFailed checks that a run has failed with exit status 1 and these words.
func wantFailed(t *testing.T, r testdomain.Result, words ...string) {
	t.Helper()
	if r.Code != 1 {
		t.Errorf("exit %d, want 1", r.Code)
	}
	for _, w := range words {
		if !strings.Contains(r.Stderr, w) {
			t.Errorf("it does not say %q", w)
		}
	}
}

// overwrite makes the guest overwrite vdb repeatedly.
func overwrite(s *testsite.Site) {
	s.T.Helper()
	s.Exec(`setsid sh -c 'while :; do dd if=/dev/urandom of=/dev/vdb bs=1M oflag=direct; done' >/dev/null 2>&1 </dev/null & sleep 1`)
}

// states collects the states of the domain until stop is called.
func states(s *testsite.Site) (stop func() []string) {
	ended, wait := make(chan struct{}), sync.WaitGroup{}
	var seen []string
	wait.Go(func() {
		for {
			select {
			case <-ended:
				return
			case <-time.After(50 * time.Millisecond):
				if state := s.State(); !slices.Contains(seen, state) {
					seen = append(seen, state)
				}
			}
		}
	})
	return func() []string { close(ended); wait.Wait(); return seen }
}

// A guest that overwrites its disk while the job runs never loses a write: the
// backup ends before the scratch space does, or wakes the guest up again.
func TestScratchAndShutdownOfAGuest(t *testing.T) {
	t.Parallel()
	// QEMU has a mount namespace of its own, with the mounts that exist when it starts.
	dirs := []string{testsite.Mounted(t, "tmpfs", 512), testsite.Mounted(t, "tmpfs", 96), testsite.Mounted(t, "tmpfs", 8), testsite.Mounted(t, "tmpfs", 384)}
	s := testsite.New(t, testdomain.NewGuest(t, testdomain.Disk{Target: "vda", Size: 96 << 20}, testdomain.Disk{Target: "vdb", Size: 256 << 20}))
	s.Program.Must(t, nil, "full", s.Name, "--exclude", "vdb")
	s.Exec("dd if=/dev/urandom of=/dev/vdb bs=1M oflag=direct 2>/dev/null || true")
	overwrite(s)
	for i, c := range []struct {
		name     string
		slow     int // MB/s that the guest may write; 0: no limit
		args     []string
		words    string
		mayPause bool
	}{
		{"limit", 0, []string{"--scratch-limit", "16M"}, "that reaches the limit of 16.0 MiB", false},
		{"reserve", 8, nil, "less than the reserve of", false},
		{"no time", 0, nil, "ended the backup of domain " + s.Name, true},
		// The point fits, but not together with what the guest overwrites meanwhile.
		{"beside the repository", 16, []string{"--repo", filepath.Join(dirs[3], "repo"), "--limit-rate", "10M"}, "less than the reserve of", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := dirs[i]
			if c.slow > 0 {
				testdomain.Virsh(t, "blkdeviotune", s.Name, "vdb", "--write-bytes-sec", fmt.Sprint(c.slow<<20), "--live")
			}
			stop := states(s)
			s.Refused(1, c.words, append([]string{"full", s.Name, "--limit-rate", "1M", "--scratch-dir", dir}, c.args...)...)
			if seen := stop(); !c.mayPause && !slices.Equal(seen, []string{"running"}) {
				t.Errorf("the guest was %q", seen)
			} else {
				t.Logf("the guest was %q", seen)
			}
			testdomain.Virsh(t, "blkdeviotune", s.Name, "vdb", "--write-bytes-sec", "0", "--live")
			s.WantThawed(t)
			if left := testsite.Listing(t, dir); strings.Contains(left, "scratch") {
				t.Errorf("left: %s", left)
			}
		})
	}
	t.Run("shutdown", func(t *testing.T) { shutDown(s, t) })
}

// shutDown makes the guest shut down in mid-copy.
func shutDown(s *testsite.Site, t *testing.T) {
	p := startSlowly(s, "full")
	s.Exec("pkill dd || true")
	s.PowerOff()
	wantFailed(t, p.Wait(), "was shut off while it was backed up (", "is left; the next run deletes it")
	s.NoPartial()
	testdomain.Virsh(t, "start", s.Name)
	s.AwaitGuest()
	r := s.Program.Must(t, nil, "--json", "inc", s.Name, "--exclude", "vdb")
	s.Points = nil
	testsite.WantKinds(t, s.Add(r, nil).Point, "vda inc")
	if got := s.Labels(); !slices.Equal(got, []string{"check1", s.Points[0].ID}) {
		t.Errorf("checkpoints %q", got)
	}
	testdomain.CheckImage(t, s.Image(s.Points[0].Manifest, "vda"))
}

// The domain is shut off in mid-copy: the run says so, and leaves nothing that the next one
// does not clean up.
func TestShutOffInMidCopy(t *testing.T) {
	for name, c := range map[string]struct {
		first bool // it is the first run
		off   func(*testsite.Site)
		words string // "(": libvirt may not know yet that someone destroyed it
		code  int    // of the next
	}{
		"destroyed in the first run": {true, func(s *testsite.Site) { s.Destroy() }, "(", 0},
		"destroyed":                  {false, func(s *testsite.Site) { s.Destroy() }, "(", 0},
		"killed":                     {false, func(s *testsite.Site) { s.Kill() }, "(its QEMU crashed)", 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 96 << 20}))
			s.Write("vda", 0, 1<<20, 0x41)
			kind := "full"
			if !c.first {
				s.BackUp(0, "full")
				kind = "inc"
			}
			s.Write("vda", 0, 90<<20, 0x42)
			p := startSlowly(s, kind)
			c.off(s)
			r := p.Wait()
			wantFailed(t, r, "was shut off while it was backed up", c.words, "run the backup again")
			s.NoPartial()
			t.Logf("checkpoints that libvirt lists: %q", s.Checkpoints())
			t.Logf("image: %s", testdomain.Tool(t, "qemu-img", "info", "-U", s.Disk("vda").Source))
			s.Start()
			s.BackUp(c.code, kind)
			s.BackUp(0, "inc")
			s.Check()
			var want []string
			for _, p := range s.Points {
				want = append(want, p.ID)
			}
			if c.code == 3 { // the earlier bitmaps are lost
				want = want[1:]
			}
			if got := s.Labels(); !slices.Equal(got, want) {
				t.Errorf("checkpoints %q, points %q", got, want)
			}
		})
	}
}

// A point that will not fit into the repository is refused with the numbers, before the job
// begins; with compression it may fit.
func TestTargetTooSmall(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 128 << 20}))
	s.At(testsite.Mounted(t, "ext4", 64))
	s.Write("vda", 0, 96<<20, 0x41)
	s.Refused(1, "too little space for check1 of domain "+s.Name+": it needs about 96.", "full", s.Name)
	if _, err := os.Stat(s.Repo); err == nil {
		t.Error("the refused run has left a repository")
	}
	s.BackUp(3, "full", "--compress", "zstd")
	s.Write("vda", 0, 80<<20, 0x42)
	s.Refused(1, "too little space for check2", "inc", s.Name)
	s.Write("vda", 0, 1<<20, 0x43)
	s.Check()
}

// A target that gets full in mid-copy: the error says how much is missing, and
// the next run goes on.
func TestTargetFillsInMidCopy(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 96 << 20}))
	dir := testsite.Mounted(t, "ext4", 160)
	s.At(dir).Write("vda", 0, 1<<20, 0x41)
	s.BackUp(0, "full")
	s.Write("vda", 0, 90<<20, 0x42)
	before := s.Footprint()
	p := s.Program.Start(t, "inc", s.Name, "--limit-rate", "16M")
	testsite.Await(t, "copy", 5*time.Millisecond, func() bool {
		images, _ := filepath.Glob(filepath.Join(s.Repo, s.Name, ".partial-*", "*.qcow2"))
		return len(images) > 0
	})
	filler := filepath.Join(dir, "filler")
	_, _ = testdomain.TryVirsh(t, "version") // the copy makes progress
	if err := fill(filler); err != nil {
		t.Fatal(err)
	}
	wantFailed(t, p.Wait(), "is full after", "of about 90.", "are missing", "no space left on device", "what this run had written is removed")
	if after := s.Footprint(); after != before {
		t.Errorf("something is left: before\n%s\nafter\n%s", before, after)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	s.BackUp(0, "inc")
	s.Check()
}

// fill writes to a file until its file system is full.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	for block := make([]byte, 1<<20); err == nil; {
		_, err = f.Write(block)
	}
	return nil
}

// The target hangs: the job ends, to relieve the guest, although the write that hangs cannot
// be cancelled; the next run goes on.
func TestTargetHangs(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 96 << 20}))
	dir := testsite.Mounted(t, "ext4", 256)
	s.At(dir).Write("vda", 0, 1<<20, 0x41)
	s.BackUp(0, "full")
	s.Write("vda", 0, 90<<20, 0x42)
	p := startSlowly(s, "inc", "--stall-timeout", "1s")
	testdomain.Tool(t, "fsfreeze", "-f", dir)
	thaw := sync.OnceFunc(func() { testdomain.Tool(t, "fsfreeze", "-u", dir) })
	defer thaw()
	testsite.Await(t, "end of the job", 100*time.Millisecond, func() bool { return !s.HasJob() && len(s.Checkpoints()) == 1 })
	thaw() // the process itself cannot end before its write does
	wantFailed(t, p.Wait(), "has stalled: nothing was read or written for", "hangs and cannot be cancelled",
		"the unfinished point check2 is left", "the job has been ended")
	r := s.Program.Must(t, nil, "--json", "inc", s.Name)
	s.Add(r, s.Truths())
	if !strings.Contains(r.Stderr, "the unfinished point .partial-check2") {
		t.Error("it does not say what it has cleaned up")
	}
	s.Check()
}

// QEMU hangs: the run ends as soon as QEMU goes on, and leaves nothing behind.
func TestSourceHangs(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 96 << 20}))
	s.Write("vda", 0, 1<<20, 0x41)
	s.BackUp(0, "full")
	s.Write("vda", 0, 90<<20, 0x42)
	before := s.Footprint()
	p := startSlowly(s, "inc", "--stall-timeout", "1s")
	pid := s.Pid()
	goOn := sync.OnceFunc(func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
	defer goOn()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	time.Sleep(6 * time.Second) // until the run tries to end the job
	goOn()
	wantFailed(t, p.Wait(), "has stalled: nothing was read or written for")
	if after := s.Footprint(); after != before {
		t.Errorf("something is left: before\n%s\nafter\n%s", before, after)
	}
	s.BackUp(0, "inc")
	s.Check()
}
