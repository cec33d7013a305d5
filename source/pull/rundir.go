package pull

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/internal/fail"
)

// Prepare makes the default directory for sockets and scratch files, with the owner of the
// directory above it: QEMU's user. Directories that the user named must exist.
func (s *Source) Prepare() error {
	for _, dir := range []string{s.SocketDir, s.ScratchDir} {
		if dir == "" {
			if err := makeRunDir(); err != nil {
				return err
			}
			continue
		}
		info, err := os.Stat(dir)
		if err != nil {
			return fail.WithHint(err, "make %s, writable for the user that QEMU runs as", dir)
		}
		if !info.IsDir() || !filepath.IsAbs(dir) {
			return fail.Errorf(fail.Usage, "name one with its absolute path", "%s is not the absolute path of a directory", dir)
		}
	}
	return nil
}

func makeRunDir() error {
	err := os.Mkdir(guest.DefaultRunDir, 0o770)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fail.WithHint(err, "run as root, or name directories with --scratch-dir and --socket-dir")
	}
	info, err := os.Stat(filepath.Dir(guest.DefaultRunDir))
	if err != nil {
		return err
	}
	owner := info.Sys().(*syscall.Stat_t)
	return os.Chown(guest.DefaultRunDir, int(owner.Uid), int(owner.Gid))
}
