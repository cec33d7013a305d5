package guestfs

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// The appliance is kept in a directory that nobody else can change; without one it is built anew.
func TestCacheDir(t *testing.T) {
	const temporary = "/temporary"
	own := func(path string, uid int) error {
		if os.Geteuid() != 0 {
			return nil
		}
		return os.Lchown(path, uid, uid)
	}
	for what, test := range map[string]struct {
		before func(parent string) error
		kept   bool
		root   bool // can be tried by root alone
	}{
		"not there":            {func(string) error { return nil }, true, false},
		"there":                {func(parent string) error { return os.Mkdir(filepath.Join(parent, "virtbackup"), 0o700) }, true, false},
		"parents are made too": {os.Remove, true, false},
		"writable for all": {func(parent string) error {
			dir := filepath.Join(parent, "virtbackup")
			return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o1777))
		}, false, false},
		"its parent is writable": {func(parent string) error { return os.Chmod(parent, 0o770) }, false, false},
		"a file":                 {func(parent string) error { return os.WriteFile(filepath.Join(parent, "virtbackup"), nil, 0o600) }, false, false},
		"of another user": {func(parent string) error {
			dir := filepath.Join(parent, "virtbackup")
			return errors.Join(os.Mkdir(dir, 0o700), own(dir, 1234))
		}, false, true},
		"in another user's": {func(parent string) error { return own(parent, 1234) }, false, true},
		"a link to another user's": {func(parent string) error {
			theirs := filepath.Join(parent, "theirs")
			return errors.Join(os.Mkdir(theirs, 0o755), own(theirs, 1234), os.Mkdir(filepath.Join(theirs, "x"), 0o700), os.Symlink("theirs/x", filepath.Join(parent, "virtbackup")))
		}, false, true},
	} {
		t.Run(what, func(t *testing.T) {
			if test.root && os.Geteuid() != 0 {
				return
			}
			parent := filepath.Join(t.TempDir(), "cache")
			if err := errors.Join(os.Mkdir(parent, 0o755), test.before(parent)); err != nil {
				t.Fatal(err)
			}
			t.Setenv("XDG_CACHE_HOME", parent)
			var said bytes.Buffer
			got := cacheDir(temporary, slog.New(slog.NewTextHandler(&said, nil)))
			want := temporary
			if test.kept {
				want = filepath.Join(parent, "virtbackup")
			}
			if got != want || test.kept != (said.Len() == 0) {
				t.Errorf("%s, want %s; said: %s", got, want, &said)
			}
			if info, err := os.Stat(got); test.kept && (err != nil || info.Mode().Perm() != 0o700) {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
		})
	}
}

// What an interrupted run has left of an appliance is removed, unless one is being built.
func TestRemoveHalfBuilt(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	cache, err := makeCache()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, ".guestfs-"+strconv.Itoa(os.Geteuid()))
	whole, half := filepath.Join(dir, "appliance.d"), filepath.Join(dir, "appliance.d.k3x9a0pq")
	if err := errors.Join(os.MkdirAll(whole, 0o755), os.Mkdir(half, 0o755), os.WriteFile(filepath.Join(half, "root"), nil, 0o600), os.WriteFile(filepath.Join(dir, "lock"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	// Of the open file, as another process's would be: those of one process do not exclude each other.
	if err := unix.FcntlFlock(lock.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	cacheDir("", log)
	if _, err := os.Lstat(half); err != nil {
		t.Errorf("while one is built: %v", err)
	}
	lock.Close()
	cacheDir("", log)
	if _, err := os.Lstat(half); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half an appliance is left: %v", err)
	}
	if _, err := os.Lstat(whole); err != nil {
		t.Error(err)
	}
}
