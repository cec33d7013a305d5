package localfile

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// GiveSocket makes others the owner of a socket in a directory that they can write to: what is there now may not
// be what was made, so no link is followed, and only a socket is given away.
func GiveSocket(path string, uid, gid int) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil || stat.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return errors.Join(err, fmt.Errorf("%s is no socket any more", path))
	}
	if err := unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "chown", Path: path, Err: err}
	}
	return nil
}
