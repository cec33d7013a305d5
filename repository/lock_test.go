package repository

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain lets the test binary be the other process: with this variable it
// locks vm1 in the repository named there, says so and waits to be killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("REPOSITORY_TEST_LOCK"); dir != "" {
		holdLock(dir)
	}
	os.Exit(m.Run())
}

func holdLock(dir string) {
	r, err := Open(dir)
	if err == nil {
		_, err = r.Lock("vm1")
	}
	if err != nil {
		os.Stdout.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
	os.Stdout.WriteString("locked\n")
	io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

func newRepository(t testing.TB) *Repository {
	t.Helper()
	r, err := Create(filepath.Join(t.TempDir(), "repo"))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustLock(t testing.TB, r *Repository, domain string) *Lock {
	t.Helper()
	l, err := r.Lock(domain)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Unlock() })
	return l
}

func TestLockKeepsOthersOut(t *testing.T) {
	r := newRepository(t)
	l := mustLock(t, r, "vm1")
	_, err := r.Lock("vm1")
	var locked *LockedError
	if !errors.As(err, &locked) {
		t.Fatalf("got %v, want *LockedError", err)
	}
	host, _ := os.Hostname()
	if locked.PID != os.Getpid() || locked.Host != host || time.Since(locked.Since) > time.Minute {
		t.Errorf("holder %+v", locked)
	}
	mustLock(t, r, "vm2")
	if err := l.Unlock(); err != nil {
		t.Fatal(err)
	}
	if err := l.Unlock(); err != nil {
		t.Errorf("second Unlock: %v", err)
	}
	mustLock(t, r, "vm1")
}

func TestLockOfADeadProcessIsNoObstacle(t *testing.T) {
	r := newRepository(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "REPOSITORY_TEST_LOCK="+r.Dir())
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	if line != "locked\n" {
		t.Fatalf("the other process: %q", line)
	}
	var locked *LockedError
	if _, err := r.Lock("vm1"); !errors.As(err, &locked) || locked.PID != cmd.Process.Pid {
		t.Errorf("got %v, want the lock of process %d", err, cmd.Process.Pid)
	}
	cmd.Process.Kill()
	cmd.Wait()
	mustLock(t, r, "vm1")
}

func TestLockIsCloseOnExec(t *testing.T) {
	l := mustLock(t, newRepository(t), "vm1")
	flags, err := unix.FcntlInt(l.file.Fd(), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("flags %#x, %v: a child would keep the lock", flags, err)
	}
}

// A process that another goroutine starts has the open lock file for a moment, from fork(2)
// until execve(2): Unlock releases the lock all the same.
func TestUnlockBesideAFork(t *testing.T) {
	r := newRepository(t)
	lock := mustLock(t, r, "vm1")
	inherited, err := unix.Dup(int(lock.file.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(inherited) }()
	if _, err := lock.Begin("check1", "0123456789abcdef"); err != nil { // or Unlock removes the file
		t.Fatal(err)
	}
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}
	again, err := r.Lock("vm1")
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Unlock(); err != nil {
		t.Fatal(err)
	}
}

func TestLockMakesNothingForAnInvalidName(t *testing.T) {
	r := newRepository(t)
	for _, name := range []string{"", "..", "../out", "a/b", ".x"} {
		if _, err := r.Lock(name); err == nil {
			t.Errorf("%q was locked", name)
		}
	}
	if names, err := r.Domains(); err != nil || len(names) != 0 {
		t.Errorf("domains %q, %v", names, err)
	}
}

func TestUnlockRemovesOnlyWhatLockMade(t *testing.T) {
	r := newRepository(t)
	mustMkdir(t, filepath.Join(r.Dir(), "old"))
	for _, domain := range []string{"new", "old"} {
		if err := mustLock(t, r, domain).Unlock(); err != nil {
			t.Fatal(err)
		}
	}
	l := mustLock(t, r, "used")
	mustMkdir(t, filepath.Join(r.Dir(), "used", "check1"))
	if err := l.Unlock(); err != nil {
		t.Fatal(err)
	}
	names, err := r.Domains()
	if err != nil || strings.Join(names, " ") != "old used" {
		t.Errorf("domains %q, %v, want old and used", names, err)
	}
}

// Locking, and removing the directory on the way out, never lets two in.
func TestLockExcludesWhileDirectoriesComeAndGo(t *testing.T) {
	r := newRepository(t)
	var inside, taken atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 300 {
				l, err := r.Lock("vm1")
				var locked *LockedError
				if errors.As(err, &locked) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if inside.Add(1) != 1 {
					t.Error("two runs hold the lock")
				}
				taken.Add(1)
				inside.Add(-1)
				if err := l.Unlock(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if taken.Load() == 0 {
		t.Error("nobody got the lock")
	}
}

// A lock on a file that its holder has removed since it was opened keeps nobody out, and
// is none, whether there is another by now or not.
func TestLockOfAFileThatIsGone(t *testing.T) {
	r := newRepository(t)
	for _, again := range []bool{false, true} {
		before := mustLock(t, r, "vm1")
		f, err := r.openLock("vm1")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := before.Unlock(); err != nil { // removes the directory that it has made
			t.Fatal(err)
		}
		if again {
			mustLock(t, r, "vm1")
		}
		if err := r.lockOpened("vm1", f); !errors.Is(err, errLockMoved) {
			t.Errorf("with another lock file %v: got %v, want %v", again, err, errLockMoved)
		}
	}
}

func TestLockRefusesASymbolicLink(t *testing.T) {
	r := newRepository(t)
	victim := filepath.Join(t.TempDir(), "victim")
	mustWrite(t, victim, "precious")
	mustMkdir(t, filepath.Join(r.Dir(), "vm1"))
	if err := os.Symlink(victim, filepath.Join(r.Dir(), "vm1", lockName)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Lock("vm1"); err == nil {
		t.Error("locked through a symbolic link")
	}
	if data, _ := os.ReadFile(victim); string(data) != "precious" {
		t.Errorf("the link's target now holds %q", data)
	}
}

func TestLockErrorsSayWhy(t *testing.T) {
	for errno, want := range map[unix.Errno]string{
		unix.EROFS:  "mounted read-only",
		unix.EACCES: "this user may not write",
		unix.EPERM:  "this user may not write",
		unix.ENOLCK: "lock domain vm1",
	} {
		err := lockError("vm1", &os.PathError{Op: "open", Path: "p", Err: errno})
		if !strings.Contains(err.Error(), want) || !errors.Is(err, errno) {
			t.Errorf("%v: %v", errno, err)
		}
	}
}

func TestLeftovers(t *testing.T) {
	r := newRepository(t)
	l := mustLock(t, r, "vm1")
	dir := filepath.Join(r.Dir(), "vm1")
	mustMkdir(t, filepath.Join(dir, ".partial-check3", "x"))
	mustMkdir(t, filepath.Join(dir, "check1"))
	mustMkdir(t, filepath.Join(dir, ".other"))
	names, err := l.Leftovers()
	if err != nil || len(names) != 1 || names[0] != ".partial-check3" {
		t.Fatalf("leftovers %q, %v", names, err)
	}
	for _, name := range []string{"check1", ".other", "..", ".partial-/../check1", ".partial-x/../../y"} {
		if l.RemoveLeftover(name) == nil {
			t.Errorf("%q was removed", name)
		}
	}
	if err := l.RemoveLeftover(names[0]); err != nil {
		t.Fatal(err)
	}
	if names, _ := l.Leftovers(); len(names) != 0 {
		t.Errorf("leftovers %q after removal", names)
	}
	if _, err := os.Stat(filepath.Join(dir, "check1")); err != nil {
		t.Error(err)
	}
}
