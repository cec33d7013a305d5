package repository

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
)

var errDone = errors.New("done")

// done is what Read and ExcludeReaders call where it does not matter; its error is theirs.
func done() error { return errDone }

func wantReaders(t *testing.T, err error, holder string) {
	t.Helper()
	var readers *ReadersError
	if !errors.As(err, &readers) || !fail.Is(err, fail.Locked) || !strings.Contains(err.Error(), holder) || fail.HintOf(err) == "" {
		t.Errorf("got %v, want readers, %q", err, holder)
	}
}

// Readers read beside one another; nobody replaces points meanwhile, and the error names who
// reads.
func TestReadBlocksExcludeReaders(t *testing.T) {
	r, l := ofChain(t)
	ctx := context.Background()
	err := r.Read(ctx, "vm1", func() error {
		return r.Read(ctx, "vm1", func() error {
			start := time.Now()
			err := l.ExcludeReaders(ctx, 100*time.Millisecond, func() error {
				t.Error("readers were not excluded")
				return nil
			})
			var readers *ReadersError
			if !errors.As(err, &readers) || len(readers.Holders) != 1 {
				t.Errorf("got %v", err)
			}
			wantReaders(t, err, fmt.Sprintf("process %d (", os.Getpid()))
			if waited := time.Since(start); waited < 100*time.Millisecond || waited > 5*time.Second {
				t.Errorf("waited %v", waited)
			}
			return errDone
		})
	})
	if !errors.Is(err, errDone) {
		t.Errorf("Read returned %v", err)
	}
	for range 2 {
		if err := l.ExcludeReaders(ctx, 0, done); !errors.Is(err, errDone) {
			t.Errorf("behind the readers: %v", err)
		}
	}
	if err := r.Read(ctx, "vm2", func() error { return l.ExcludeReaders(ctx, 0, done) }); !errors.Is(err, errDone) {
		t.Errorf("beside readers of another domain: %v", err)
	}
}

// ExcludeReaders goes on as soon as the last reader has ended, and is ended with its context.
func TestExcludeReadersWaits(t *testing.T) {
	r, l := ofChain(t)
	reading, end, ended := make(chan bool), make(chan bool), make(chan error)
	go func() {
		ended <- r.Read(context.Background(), "vm1", func() error { close(reading); <-end; return nil })
	}()
	<-reading
	ctx, cancel := context.WithCancelCause(context.Background())
	time.AfterFunc(50*time.Millisecond, func() { cancel(errDone) })
	if err := l.ExcludeReaders(ctx, time.Minute, func() error { return nil }); !errors.Is(err, errDone) {
		t.Errorf("cancelled: %v", err)
	}
	time.AfterFunc(50*time.Millisecond, func() { close(end) })
	if err := l.ExcludeReaders(context.Background(), time.Minute, done); !errors.Is(err, errDone) {
		t.Errorf("behind a reader: %v", err)
	}
	must(t, <-ended)
}

// Readers wait until the exchange is done, however long, or until their context ends.
func TestExcludeReadersBlocksRead(t *testing.T) {
	r, l := ofChain(t)
	var over atomic.Bool
	read := make(chan error)
	err := l.ExcludeReaders(context.Background(), 0, func() error {
		ctx, cancel := context.WithCancelCause(context.Background())
		time.AfterFunc(50*time.Millisecond, func() { cancel(errDone) })
		if err := r.Read(ctx, "vm1", func() error { t.Error("it is read"); return nil }); !errors.Is(err, errDone) {
			t.Errorf("cancelled: %v", err)
		}
		go func() {
			read <- r.Read(context.Background(), "vm1", func() error {
				if !over.Load() {
					t.Error("read while readers are excluded")
				}
				return errDone
			})
		}()
		time.Sleep(50 * time.Millisecond)
		over.Store(true)
		return nil
	})
	must(t, err)
	if err := <-read; !errors.Is(err, errDone) {
		t.Error(err)
	}
}

// A panic while points are read, or replaced, leaves no lock.
func TestReadersAfterAPanic(t *testing.T) {
	r, l := ofChain(t)
	panicking := func() error { panic("x") }
	for _, f := range []func(){
		func() { _ = r.Read(context.Background(), "vm1", panicking) },
		func() { _ = l.ExcludeReaders(context.Background(), 0, panicking) },
	} {
		func() {
			defer func() { _ = recover() }()
			f()
			t.Error("no panic")
		}()
		if err := l.ExcludeReaders(context.Background(), 0, done); !errors.Is(err, errDone) {
			t.Error(err)
		}
	}
}

// The lock of another process holds, its end ends it, and it is named. The repository may be
// reached through a link.
func TestReaderInAnotherProcess(t *testing.T) {
	real, _ := ofChain(t)
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(real.Dir(), link))
	mustWrite(t, filepath.Join(real.Dir(), "vm1", ReadersName), "")
	r, err := Open(link)
	must(t, err)
	cmd := exec.Command("flock", "--shared", "--no-fork", filepath.Join(link, "vm1", ReadersName), "sh", "-c", "echo locked; exec cat")
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err, cmd.Start())
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "locked\n" {
		t.Fatalf("the other process: %q", line)
	}
	l := &Lock{repo: r, domain: "vm1"}
	wantReaders(t, l.ExcludeReaders(context.Background(), 0, done), fmt.Sprintf("process %d (", cmd.Process.Pid))
	must(t, in.Close(), cmd.Wait())
	if err := l.ExcludeReaders(context.Background(), time.Second, done); !errors.Is(err, errDone) {
		t.Error(err)
	}
}

// A file of the readers that was removed with its domain, which was made anew, is not the one
// that others lock.
func TestReadersOfADomainMadeAnew(t *testing.T) {
	r, l := ofChain(t)
	read := make(chan error, 1)
	must(t, l.ExcludeReaders(context.Background(), 0, func() error {
		go func() {
			read <- r.Read(context.Background(), "vm1", func() error { return l.ExcludeReaders(context.Background(), 0, done) })
		}()
		time.Sleep(50 * time.Millisecond) // it waits for the lock of the file
		return os.Remove(filepath.Join(r.Dir(), "vm1", ReadersName))
	}))
	wantReaders(t, <-read, "process")
}

// Read makes the file of the readers, and nothing but that.
func TestReadMakesNothing(t *testing.T) {
	r := newRepository(t)
	outside := t.TempDir()
	must(t, os.Symlink(outside, filepath.Join(r.Dir(), "linked")))
	mustWrite(t, filepath.Join(r.Dir(), "file"), "")
	for _, domain := range []string{"vm1", "", "../vm1", ".", "linked", "file"} {
		if err := r.Read(context.Background(), domain, done); !errors.Is(err, errDone) {
			t.Errorf("%q: %v", domain, err)
		}
	}
	for dir, want := range map[string]int{r.Dir(): 3, outside: 0, filepath.Dir(r.Dir()): 1} {
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != want {
			t.Errorf("%s: %v, %v", dir, entries, err)
		}
	}
	l := mustLock(t, r, "vm1")
	must(t, r.Read(context.Background(), "vm1", func() error { return nil }), l.Unlock())
	if _, err := os.Lstat(filepath.Join(r.Dir(), "vm1")); !os.IsNotExist(err) {
		t.Errorf("the domain's directory stays: %v", err)
	}
}

// Whatever is in the place of the file, reading goes on, and nothing outside is made or locked.
func TestReadersFileIsSomethingElse(t *testing.T) {
	for name, put := range map[string]func(path, outside string) error{
		"a link":      func(path, outside string) error { return os.Symlink(outside, path) },
		"a directory": func(path, _ string) error { return os.Mkdir(path, 0o700) },
	} {
		r, l := ofChain(t)
		outside := filepath.Join(t.TempDir(), "outside")
		must(t, put(filepath.Join(r.Dir(), "vm1", ReadersName), outside))
		if err := r.Read(context.Background(), "vm1", done); !errors.Is(err, errDone) {
			t.Errorf("%s: %v", name, err)
		}
		if err := l.ExcludeReaders(context.Background(), 0, done); err == nil || errors.Is(err, errDone) {
			t.Errorf("%s: excluded readers: %v", name, err)
		}
		if _, err := os.Lstat(outside); !os.IsNotExist(err) {
			t.Errorf("%s: made outside: %v", name, err)
		}
	}
	r, l := ofChain(t)
	must(t, unix.Mkfifo(filepath.Join(r.Dir(), "vm1", ReadersName), 0o600))
	err := r.Read(context.Background(), "vm1", func() error { return l.ExcludeReaders(context.Background(), 0, done) })
	wantReaders(t, err, "process")
}

func TestExcludeReadersWithoutTheLock(t *testing.T) {
	_, l := ofChain(t)
	must(t, l.Unlock())
	if err := l.ExcludeReaders(context.Background(), 0, done); err == nil || errors.Is(err, errDone) {
		t.Errorf("got %v", err)
	}
}

// readOnly is the repository, as it is seen where it is mounted read-only.
func readOnly(t *testing.T, r *Repository) *Repository {
	t.Helper()
	dir := t.TempDir()
	must(t, unix.Mount(r.Dir(), dir, "", unix.MS_BIND, ""))
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	must(t, unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	c, err := Open(dir)
	must(t, err)
	return c
}

// Where nobody can write, there is a lock if the file is there.
func TestReadLocksOnAReadOnlyFileSystem(t *testing.T) {
	r, l := ofChain(t)
	c := readOnly(t, r)
	excluded := func() error { return l.ExcludeReaders(context.Background(), 0, done) }
	if err := c.Read(context.Background(), "vm1", func() error {
		if _, err := os.Lstat(filepath.Join(c.Dir(), "vm1", ReadersName)); !os.IsNotExist(err) {
			t.Errorf("the file is there: %v", err)
		}
		return excluded()
	}); !errors.Is(err, errDone) {
		t.Errorf("without the file: %v", err)
	}
	wantReaders(t, c.Read(context.Background(), "vm1", excluded), "process")
}

// What was damaged is read again where there is no lock, as often as points have changed.
func TestReadAgainWithoutALock(t *testing.T) {
	r, l := ofChain(t)
	c := readOnly(t, r)
	damaged := &damage.Error{Points: []damage.Point{{Domain: "vm1", ID: "check1", Err: errDone}}}
	calls := 0
	read := func(do func() error) error {
		calls = 0
		return c.Read(context.Background(), "vm1", func() error { calls++; return do() })
	}
	redescribed := func(id string) {
		m, err := r.Point("vm1", id)
		must(t, err)
		m.Warnings = append(m.Warnings, "x")
		data, err := manifest.Encode(m)
		must(t, err, os.WriteFile(filepath.Join(r.PointDir("vm1", id), manifest.FileName), data, 0o600))
	}
	tests := []struct {
		name  string
		do    func() error
		err   error
		calls int
	}{
		{"sound", func() error { return nil }, nil, 1},
		{"damaged", func() error { return damaged }, damaged, 1},
		{"replaced, and sound", func() error { redescribed("check1"); return nil }, nil, 1},
		{"replaced, and another error", func() error { redescribed("check1"); return errDone }, errDone, 1},
		{"replaced once", func() error {
			if calls == 1 {
				redescribed("check1")
				return damaged
			}
			return nil
		}, nil, 2},
		{"replaced once, and damaged", func() error {
			if calls == 1 {
				redescribed("check1")
			}
			return damaged
		}, damaged, 2},
		{"gone from the server", func() error {
			if calls == 1 {
				redescribed("check1")
				return &os.PathError{Op: "read", Path: "vda.qcow2", Err: unix.ESTALE}
			}
			return nil
		}, nil, 2},
		{"removed once", func() error {
			if calls == 1 {
				must(t, l.RemovePoints([]string{"diff4"}, nil))
				return damaged
			}
			return nil
		}, nil, 2},
		{"replaced always", func() error { redescribed("check2"); return damaged }, damaged, readTries},
	}
	for _, tt := range tests {
		if err := read(tt.do); !errors.Is(err, tt.err) || calls != tt.calls {
			t.Errorf("%s: %v after %d calls, want %v after %d", tt.name, err, calls, tt.err, tt.calls)
		}
	}
	mustWrite(t, filepath.Join(r.Dir(), "vm1", ReadersName), "")
	if err := read(func() error { redescribed("check1"); return damaged }); !errors.Is(err, damaged) || calls != 1 {
		t.Errorf("with a lock: %v after %d calls", err, calls)
	}
}
