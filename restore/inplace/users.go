package inplace

import (
	"context"
	"os"
	"syscall"

	"github.com/virtbackup/virtbackup/guest/diskuse"
	"github.com/virtbackup/virtbackup/guest/shutoff"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/restore/device"
)

// fileKey is what a file or a block device is, whatever its path.
type fileKey struct {
	device bool
	a, b   uint64
}

// keyOf follows symbolic links. ok is false if there is nothing.
func keyOf(path string) (key fileKey, ok bool) {
	info, err := os.Stat(path)
	if err != nil {
		return fileKey{}, false
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fileKey{}, false
	}
	if info.Mode()&os.ModeDevice != 0 {
		return fileKey{device: true, a: s.Rdev}, true
	}
	return fileKey{a: s.Dev, b: s.Ino}, true
}

// refuseOtherUsers refuses images that another disk uses, of this domain or another, as its
// own or as a backing file: what is written to them would be damage there.
func (r *run) refuseOtherUsers(ctx context.Context) error {
	mine := map[fileKey]*disk{}
	for _, d := range r.disks {
		for _, path := range shutoff.Files(d.images[0]) {
			key, ok := keyOf(path)
			if other := mine[key]; ok && other != nil {
				return fail.Errorf(fail.Usage, "", "disks %s and %s of domain %s are the same file %s", other.Target, d.Target, r.Domain, path)
			}
			mine[key] = d
		}
	}
	return diskuse.Each(ctx, r.Host, r.Log, func(u diskuse.Use) error {
		key, ok := keyOf(u.Path)
		used := mine[key]
		if ok && used == nil && key.device {
			used = r.sharing(u.Path)
		}
		if !ok || used == nil || u.Domain.UUID() == r.domain.UUID() && u.Target == used.Target && !u.Below {
			return nil
		}
		return fail.Errorf(fail.Usage, r.without(used.Target), "disk %s of domain %s (%s) is used by disk %s of domain %s, too",
			used.Target, r.Domain, used.Path, u.Target, u.Domain.Name())
	})
}

// sharing is a disk that has bytes of a block device: its own is a partition of that, or the other
// way round.
func (r *run) sharing(path string) *disk {
	for _, d := range r.disks {
		if d.device && device.Same(d.Path, path) {
			return d
		}
	}
	return nil
}
