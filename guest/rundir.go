package guest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/virtbackup/virtbackup/internal/fail"
)

// MakeRunDir makes the default directory for sockets and scratch files, with the owner of the
// directory above it: QEMU's user. A directory that the user named must exist.
func MakeRunDir(dir string) error {
	if dir == "" {
		return makeRunDir()
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fail.WithHint(err, "make %s, writable for the user that QEMU runs as", dir)
	}
	if !info.IsDir() || !filepath.IsAbs(dir) {
		return fail.Errorf(fail.Usage, "name one with its absolute path", "%s is not the absolute path of a directory", dir)
	}
	return nil
}

func makeRunDir() error {
	err := os.Mkdir(DefaultRunDir, 0o770)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fail.WithHint(err, "run as root, or name directories with --scratch-dir and --socket-dir")
	}
	info, err := os.Stat(filepath.Dir(DefaultRunDir))
	if err != nil {
		return err
	}
	owner := info.Sys().(*syscall.Stat_t)
	return os.Chown(DefaultRunDir, int(owner.Uid), int(owner.Gid))
}
