package repository

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/fault"
)

// maxSmall bounds the files that are read whole: manifests, repository.json.
// A manifest has some 600 bytes a disk; 16 MiB is far above any real one and
// far below what would hurt.
const maxSmall = 16 << 20

// readSmall reads a regular file of bounded size. It refuses symbolic links and
// anything that is no plain file: a FIFO in a damaged tree must not hang a run. What
// storage cannot read is read once more.
func readSmall(path string) ([]byte, error) {
	data, err := readSmallOnce(path)
	if unreadable(err) {
		data, err = readSmallOnce(path)
	}
	return data, err
}

func readSmallOnce(path string) ([]byte, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSmall+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxSmall {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxSmall)
	}
	return data, nil
}

var errNotRegular = errors.New("is not a regular file")

// openRegular opens a file of a point for reading; the caller closes it.
func openRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%s %w: a symbolic link", path, errNotRegular)
	}
	if errors.Is(err, unix.ENXIO) {
		return nil, fmt.Errorf("%s %w: a socket or device", path, errNotRegular)
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s %w", path, errNotRegular)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// writeFile makes a new file with this content and puts it on stable storage;
// its name is durable only after syncDir. An existing file is an error.
func writeFile(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	return finishFile(f, data)
}

func finishFile(f *os.File, data []byte) error {
	_, err := io.Copy(f, bytes.NewReader(data))
	if err == nil {
		err = syncFile(f)
	}
	return errors.Join(err, f.Close())
}

// syncFile puts the content of a file on stable storage.
func syncFile(f *os.File) error {
	return fault.Around("fsync "+filepath.Base(f.Name()), f.Sync)
}

// syncDir makes the names in dir durable (fsync(2): an fsync of a file does not
// cover the entry in its directory).
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// makeDir makes dir with mode 0700 and its parents with 0755, and makes the
// names it added durable. An existing directory is left as it is.
func makeDir(dir string) error {
	if info, err := os.Stat(dir); err == nil {
		if !info.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: dir, Err: unix.ENOTDIR}
		}
		return nil
	}
	parent := filepath.Dir(dir)
	if err := makeParents(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, dirMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(parent)
}

// absentDirs are the directories that makeDir would make, outermost first.
func absentDirs(dir string) []string {
	if _, err := os.Stat(dir); err == nil || filepath.Dir(dir) == dir {
		return nil
	}
	return append(absentDirs(filepath.Dir(dir)), dir)
}

// removeDirs removes directories, given outermost first, as far as they are
// empty.
func removeDirs(dirs []string) error {
	for _, dir := range slices.Backward(dirs) {
		err := unix.Rmdir(dir)
		if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
		}
	}
	return nil
}

func makeParents(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := makeParents(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(parent)
}

// RenameExclusive renames and never replaces: an existing target is
// fs.ErrExist. File systems without RENAME_NOREPLACE (NFS, old FUSE) get a look
// followed by a rename, which is enough under a domain's lock.
func RenameExclusive(from, to string) error {
	err := retryInterrupted(func() error {
		return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	})
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.ENOTSUP) {
		return linkError(from, to, err)
	}
	if _, err := os.Lstat(to); err == nil {
		return linkError(from, to, unix.EEXIST)
	}
	return os.Rename(from, to)
}

func linkError(from, to string, err error) error {
	if err == nil {
		return nil
	}
	return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
}

// retryInterrupted repeats a system call that a signal interrupted, as package
// os does: the Go runtime sends itself signals.
func retryInterrupted(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
