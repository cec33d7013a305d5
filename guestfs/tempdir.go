package guestfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/filelock"
	"github.com/virtbackup/virtbackup/internal/storagedaemon"
)

// tempPrefix is that of temporary directories. Each is locked while its process runs.
const tempPrefix = ".virtbackup-files-"

// tempMark is what tells one from a directory of a guest that was copied and has such a name: a
// socket, and sockets are not copied.
const tempMark = "virtbackup"

// tempParent is where sockets are, and what libguestfs writes: what a mount changes on a disk, such
// as the replay of a journal. Its path is part of URIs and of QEMU's options.
func tempParent() string {
	if dir := storagedaemon.TempDir(); !strings.ContainsAny(dir, " :?&,%#\\\"'") {
		return dir
	}
	return "/tmp"
}

// temporary is a directory of this user alone. It is known by its descriptor, not by its path, which
// the owner of its parent can give to anything else.
type temporary struct {
	path string
	dir  *os.File // locked
}

// tempTries is how often a directory is made: another process may take one that is not locked yet for
// an abandoned one.
const tempTries = 100

// tempDir makes one, and removes those that killed processes have left.
func tempDir(parent string) (*temporary, error) {
	removeAbandoned(parent)
	for range tempTries {
		path, err := os.MkdirTemp(parent, tempPrefix)
		if err != nil {
			return nil, err
		}
		dir, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_DIRECTORY, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, errors.Join(err, os.RemoveAll(path))
		}
		t := &temporary{path, dir}
		err = t.hold()
		if err == nil {
			return t, nil
		}
		dir.Close()
		if !errors.Is(err, filelock.ErrHeld) {
			return nil, errors.Join(err, os.RemoveAll(path))
		}
	}
	return nil, fmt.Errorf("other processes remove what is made in %s", parent)
}

// hold locks the directory, and sees that it is the one that was made: this user's, and there.
// The error is filelock.ErrHeld where another process removes it.
func (t *temporary) hold() error {
	info, err := t.dir.Stat()
	switch {
	case err != nil:
		return err
	case !isOurs(info) || info.Mode()&0o022 != 0:
		return fmt.Errorf("%s is not the directory that was made", t.path)
	}
	if err := filelock.Try(t.dir, filelock.Exclusive); err != nil {
		return err
	}
	if !filelock.IsAt(t.dir, t.path) {
		return filelock.ErrHeld
	}
	// Where a file system has no sockets, what a killed process leaves stays.
	_ = unix.Mknodat(int(t.dir.Fd()), tempMark, unix.S_IFSOCK|0o600, 0)
	return nil
}

// isMarked tells whether a directory was made by tempDir.
func isMarked(dir *os.File) bool {
	var stat unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), tempMark, &stat, unix.AT_SYMLINK_NOFOLLOW)
	return err == nil && stat.Mode&unix.S_IFMT == unix.S_IFSOCK
}

// inside makes a directory in it, for any names.
func (t *temporary) inside() (*os.File, error) {
	const name = "files"
	if err := unix.Mkdirat(int(t.dir.Fd()), name, 0o700); err != nil {
		return nil, &fs.PathError{Op: "mkdir", Path: filepath.Join(t.path, name), Err: err}
	}
	return os.OpenFile(filepath.Join(byFD(t.dir), name), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_DIRECTORY, 0)
}

// remove removes it with all that is in it.
func (t *temporary) remove() error {
	defer t.dir.Close()
	return removeTree(t.path, t.dir)
}

// removeTree removes a directory, which is open, with all that is in it, its mark last: one that is
// killed meanwhile is still known.
func removeTree(path string, dir *os.File) error {
	root, err := os.OpenRoot(byFD(dir))
	if err != nil {
		return err
	}
	defer root.Close()
	entries, err := fs.ReadDir(root.FS(), ".")
	for _, e := range entries {
		if e.Name() != tempMark {
			err = errors.Join(err, removeIn(root, e.Name()))
		}
	}
	return errors.Join(err, os.RemoveAll(path))
}

// removeIn removes a name. Directories of a guest may have no rights for their owner, who may not
// remove what is in them.
func removeIn(root *os.Root, name string) error {
	err := root.RemoveAll(name)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return errors.Join(openTree(root, name), root.RemoveAll(name))
}

// openTree lets this user change a directory and those below.
func openTree(root *os.Root, name string) error {
	return fs.WalkDir(root.FS(), name, func(name string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			return root.Chmod(name, 0o700)
		}
		return err
	})
}

// byFD is a path of an open directory that leads to it whatever became of its names (proc(5)).
func byFD(dir *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", dir.Fd()) }

// removeAbandoned removes the directories of processes of this user that have ended.
func removeAbandoned(parent string) {
	entries, _ := os.ReadDir(parent) // making one there will say what is wrong
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), tempPrefix) {
			continue
		}
		dir := filepath.Join(parent, e.Name())
		f, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_DIRECTORY, 0)
		if err != nil {
			continue
		}
		if info, err := f.Stat(); err == nil && isOurs(info) && isMarked(f) && filelock.Try(f, filelock.Exclusive) == nil {
			_ = removeTree(dir, f) // the next run tries again
		}
		f.Close()
	}
}

// isOurs tells whether a file is of this user.
func isOurs(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}
