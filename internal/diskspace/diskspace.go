// Package diskspace says what room there is in directories.
package diskspace

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Free is what the file system of a directory has, in bytes, and how large it is: 0 where it
// does not say. asRoot counts the blocks that are kept for root, too.
func Free(dir string, asRoot bool) (free, size int64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	block := s.Frsize
	if block == 0 {
		block = s.Bsize
	}
	blocks := s.Bavail
	if asRoot {
		blocks = s.Bfree
	}
	return int64(blocks) * block, int64(s.Blocks) * block, nil
}

// Shared says whether two directories share their space. Subvolumes of btrfs, datasets of
// ZFS and overlays do under device numbers of their own.
func Shared(a, b string) bool { return sameDevice(a, b) || sameFree(a, b) }

func sameDevice(a, b string) bool {
	var of, other unix.Stat_t
	return unix.Stat(a, &of) == nil && unix.Stat(b, &other) == nil && of.Dev == other.Dev
}

// sameFree says whether the same is free for two directories, while others may write.
func sameFree(a, b string) bool {
	before, _, err := Free(a, false)
	free, _, errOther := Free(b, false)
	after, _, errAgain := Free(a, false)
	return errors.Join(err, errOther, errAgain) == nil && min(before, after) <= free && free <= max(before, after)
}
