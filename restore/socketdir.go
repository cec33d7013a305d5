package restore

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/filelock"
	"github.com/virtbackup/virtbackup/internal/storagedaemon"
)

// socketDirs are the directories with sockets of qemu-storage-daemon: not beside the images,
// as the path of a socket has less than 108 bytes (unix(7)), and not every file system has
// sockets.
const socketDirs = "virtbackup-restore-"

// socketDir makes a directory for a socket, which is locked while this process uses it. Those of
// killed restores are removed.
func socketDir() (dir string, remove func() error, err error) {
	old, _ := filepath.Glob(filepath.Join(storagedaemon.TempDir(), socketDirs+"*"))
	for _, dir := range old {
		removeUnused(dir)
	}
	for range 10 { // another restore may take a new one for unused before it is locked
		if dir, err = os.MkdirTemp(storagedaemon.TempDir(), socketDirs); err != nil {
			return "", nil, err
		}
		lock, lockErr := lockDir(dir)
		if err = lockErr; err == nil && filelock.IsAt(lock, dir) {
			return dir, func() error { return errors.Join(os.RemoveAll(dir), filelock.Close(lock)) }, nil
		}
		if err == nil {
			err = errors.Join(os.ErrNotExist, filelock.Close(lock))
		}
	}
	return "", nil, err
}

// lockDir locks a directory of this user.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	var stat unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &stat)
	if err == nil && int(stat.Uid) != os.Geteuid() {
		err = os.ErrPermission
	}
	if err == nil {
		err = filelock.Try(f, filelock.Exclusive)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// removeUnused removes a directory that no process has locked. It is not needed for anything,
// so errors are ignored.
func removeUnused(dir string) {
	if lock, err := lockDir(dir); err == nil {
		_ = os.RemoveAll(dir)
		_ = filelock.Close(lock)
	}
}
