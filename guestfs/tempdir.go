package guestfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/virtbackup/virtbackup/internal/filelock"
	"github.com/virtbackup/virtbackup/internal/storagedaemon"
)

// tempPrefix is that of temporary directories. Each is locked while its process runs.
const tempPrefix = ".virtbackup-files-"

// tempParent is where sockets are, and what libguestfs writes: what a mount changes on a disk, such
// as the replay of a journal. Its path is part of URIs and of QEMU's options.
func tempParent() string {
	if dir := storagedaemon.TempDir(); !strings.ContainsAny(dir, " :?&,%#\\\"'") {
		return dir
	}
	return "/tmp"
}

// tempDir makes a directory of this user alone, and removes those that killed processes have left.
func tempDir(parent string) (dir string, remove func() error, err error) {
	removeAbandoned(parent)
	if dir, err = os.MkdirTemp(parent, tempPrefix); err != nil {
		return "", nil, err
	}
	lock, err := os.Open(dir)
	if err == nil {
		err = filelock.Try(lock, filelock.Exclusive)
	}
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	return dir, func() error {
		defer lock.Close()
		return os.RemoveAll(dir)
	}, nil
}

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
		if info, err := f.Stat(); err == nil && isOurs(info) && filelock.Try(f, filelock.Exclusive) == nil {
			_ = os.RemoveAll(dir) // the next run tries again
		}
		f.Close()
	}
}

// isOurs tells whether a file is of this user.
func isOurs(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}
