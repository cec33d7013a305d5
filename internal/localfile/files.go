package localfile

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
	"lukechampine.com/blake3"

	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/internal/eintr"
	"github.com/virtbackup/virtbackup/internal/fault"
)

// Modes of what the repository makes: backups hold every secret that the guests hold.
const (
	DirMode  = 0o700
	FileMode = 0o600
)

// maxSmall bounds the files that are read whole: manifests, repository.json.
// A manifest has some 600 bytes a disk; 16 MiB is far above any real one and
// far below what would hurt.
const maxSmall = 16 << 20

// ReadSmall reads a regular file of bounded size. It refuses symbolic links and
// anything that is no plain file: a FIFO in a damaged tree must not hang a run. What
// storage cannot read is read once more.
func ReadSmall(path string) ([]byte, error) {
	data, err := readSmallOnce(path)
	if Unreadable(err) {
		data, err = readSmallOnce(path)
	}
	return data, err
}

func readSmallOnce(path string) ([]byte, error) {
	f, err := OpenRegular(path)
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

// ErrNotRegular says that what should be a file is something else: a symbolic link, a
// directory, a device.
var ErrNotRegular = errors.New("is not a regular file")

// OpenRegular opens a regular file for reading, and refuses anything else; the caller closes it.
func OpenRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%s %w: a symbolic link", path, ErrNotRegular)
	}
	if errors.Is(err, unix.ENXIO) {
		return nil, fmt.Errorf("%s %w: a socket or device", path, ErrNotRegular)
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s %w", path, ErrNotRegular)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Write makes a new file with this content and puts it on stable storage;
// its name is durable only after SyncDir. An existing file is an error.
func Write(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, FileMode)
	if err != nil {
		return err
	}
	return Finish(f, data)
}

// Finish writes data to an open file, puts it on stable storage and closes the file.
func Finish(f *os.File, data []byte) error {
	_, err := io.Copy(f, bytes.NewReader(data))
	if err == nil {
		err = Sync(f)
	}
	return errors.Join(err, f.Close())
}

// Sync puts the content of a file on stable storage.
func Sync(f *os.File) error {
	return fault.Around("fsync "+filepath.Base(f.Name()), f.Sync)
}

// SyncDir makes the names in dir durable (fsync(2): an fsync of a file does not
// cover the entry in its directory).
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// MakeDir makes dir with mode 0700 and its parents with 0755, and makes the
// names it added durable. An existing directory is left as it is.
func MakeDir(dir string) error {
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
	if err := os.Mkdir(dir, DirMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return SyncDir(parent)
}

// AbsentDirs are dir and the directories above it that do not exist, outermost first.
func AbsentDirs(dir string) []string {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) || filepath.Dir(dir) == dir {
		return nil
	}
	return append(AbsentDirs(filepath.Dir(dir)), dir)
}

// RemoveDirs removes directories, given outermost first, as far as they are
// empty.
func RemoveDirs(dirs []string) error {
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
	return SyncDir(parent)
}

// RenameExclusive renames and never replaces: an existing target is
// fs.ErrExist. File systems without RENAME_NOREPLACE (NFS, old FUSE) get a look
// followed by a rename, which is enough under a domain's lock.
func RenameExclusive(from, to string) error {
	err := eintr.Retry(func() error {
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

// Digest returns "blake3:" and the hex BLAKE3-256 of the file at path, as
// manifests hold it (b3sum prints the same digits). Memory does not grow with
// the file.
func Digest(path string) (string, error) {
	f, err := OpenRegular(path)
	if err != nil {
		return "", fmt.Errorf("digest: %w", err)
	}
	defer f.Close()
	h := blake3.New(32, nil)
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("digest %s: %w", path, err)
	}
	return digest.Text(h.Sum(nil)), nil
}
