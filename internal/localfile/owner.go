package localfile

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// CopyOwner gives one file, or directory, the mode, the owner and the group of another, as far as
// this user may.
func CopyOwner(from, to string) error {
	want, err := os.Lstat(from)
	if err != nil {
		return err
	}
	have, err := os.Lstat(to)
	if err != nil {
		return err
	}
	owner, now := want.Sys().(*syscall.Stat_t), have.Sys().(*syscall.Stat_t)
	if owner.Uid != now.Uid || owner.Gid != now.Gid {
		if err := os.Lchown(to, int(owner.Uid), int(owner.Gid)); err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
	}
	if want.Mode().Perm() != have.Mode().Perm() {
		return os.Chmod(to, want.Mode().Perm())
	}
	return nil
}
