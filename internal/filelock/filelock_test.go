package filelock

import (
	"bufio"
	"context"
	"errors"
	"fmt"
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

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// Those that share a lock do not keep one another out, and whoever has it alone does.
func TestModes(t *testing.T) {
	for _, tt := range []struct {
		first, second Mode
		want          error
	}{
		{Shared, Shared, nil},
		{Shared, Exclusive, ErrHeld},
		{Exclusive, Shared, ErrHeld},
		{Exclusive, Exclusive, ErrHeld},
	} {
		path := filepath.Join(t.TempDir(), "lock")
		first, second := open(t, path), open(t, path)
		if err := Try(first, tt.first); err != nil {
			t.Fatal(err)
		}
		if err := Try(second, tt.second); err != tt.want {
			t.Errorf("%d beside %d: %v, want %v", tt.second, tt.first, err, tt.want)
		}
		if err := Close(first); err != nil {
			t.Fatal(err)
		}
		if err := Try(second, tt.second); err != nil {
			t.Errorf("%d behind %d: %v", tt.second, tt.first, err)
		}
	}
}

// A wait ends with its time, with its context, and with the lock of others, which
// Close releases even where another process has the open file, too.
func TestWait(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	holder, f := open(t, path), open(t, path)
	inherited, err := unix.Dup(int(holder.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(inherited)
	if err := Try(holder, Exclusive); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := Wait(context.Background(), f, Shared, 3*poll); err != ErrHeld || time.Since(start) < 3*poll {
		t.Errorf("%v after %v", err, time.Since(start))
	}
	why := errors.New("cancelled")
	ctx, cancel := context.WithCancelCause(context.Background())
	time.AfterFunc(poll, func() { cancel(why) })
	if err := Wait(ctx, f, Shared, -1); err != why {
		t.Errorf("cancelled: %v", err)
	}
	time.AfterFunc(2*poll, func() { Close(holder) })
	if err := Wait(context.Background(), f, Exclusive, time.Minute); err != nil {
		t.Error(err)
	}
}

func TestIsAt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	f := open(t, path)
	if !IsAt(f, path) {
		t.Error("not at its path")
	}
	if err := os.Remove(path); err != nil || IsAt(f, path) {
		t.Errorf("removed: still there, %v", err)
	}
	open(t, path)
	if IsAt(f, path) {
		t.Error("another file is taken for it")
	}
	if err := errors.Join(os.Rename(path, path+".x"), os.Symlink(path+".x", path)); err != nil || IsAt(open(t, path+".x"), path) {
		t.Errorf("a link is taken for the file, %v", err)
	}
}

// Files that are removed with their lock never let two in.
func TestCreateBesideRemovals(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	var inside atomic.Int32
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				f, err := Create(path, 0o600)
				if err != nil {
					t.Error(err)
					return
				}
				if inside.Add(1) != 1 {
					t.Error("two have the lock")
				}
				inside.Add(-1)
				if err := errors.Join(os.Remove(path), f.Close()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("left: %v", err)
	}
}

// The processes that hold a lock are named, each once, and those that only have the file open
// are not.
func TestHolders(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	f := open(t, path)
	if got := Holders(f); len(got) != 0 {
		t.Errorf("nobody: %q", got)
	}
	cmd := exec.Command("flock", "--shared", "--no-fork", path, "sh", "-c", "echo locked; exec cat")
	in, err := cmd.StdinPipe()
	out, outErr := cmd.StdoutPipe()
	if err := errors.Join(err, outErr, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "locked\n" {
		t.Fatalf("the other process: %q", line)
	}
	if got := Holders(f); len(got) != 1 || !strings.HasPrefix(got[0], fmt.Sprintf("process %d (", cmd.Process.Pid)) {
		t.Errorf("the other process %d: %q", cmd.Process.Pid, got)
	}
	for range 2 { // this process, twice
		if err := Try(open(t, path), Shared); err != nil {
			t.Fatal(err)
		}
	}
	if got := Holders(f); len(got) != 2 {
		t.Errorf("both processes: %q", got)
	}
	if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
		t.Fatal(err)
	}
	if got := Holders(f); len(got) != 1 || !strings.HasPrefix(got[0], fmt.Sprintf("process %d (", os.Getpid())) {
		t.Errorf("this process: %q", got)
	}
}

func TestOwner(t *testing.T) {
	f := open(t, filepath.Join(t.TempDir(), "lock"))
	if got := ReadOwner(f); got != (Owner{}) {
		t.Errorf("an empty file: %+v", got)
	}
	if _, err := f.WriteString(strings.Repeat("x", 1000)); err != nil {
		t.Fatal(err)
	}
	WriteOwner(f)
	host, _ := os.Hostname()
	if got := ReadOwner(f); got.PID != os.Getpid() || got.Host != host || time.Since(got.Started) > time.Minute || got.Started.Location() != time.UTC {
		t.Errorf("got %+v", got)
	}
}
