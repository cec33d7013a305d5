package offline

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/qemuimg"
)

// QEMU locks one byte of an image file for each permission that it uses, and one for each that it
// does not grant to others (block/file-posix.c, RAW_LOCK_PERM_BASE, RAW_LOCK_SHARED_BASE; the
// permissions are BLK_PERM_* of include/block/block-common.h). All are locked for reading; who
// wants a permission sees whether somebody else has locked the byte that denies it.
const (
	usesConsistentRead   = 100 + 0
	usesWrite            = 100 + 1
	usesResize           = 100 + 3
	deniesConsistentRead = 200 + 0
	deniesWrite          = 200 + 1
	deniesResize         = 200 + 3
)

// guard keeps writers away from image files, by QEMU's own locks, and notices those that do not
// care about locks. The storage daemon locks qcow2 images as well, but a raw image it opens so that
// another QEMU may write to it (tried with QEMU 7.2).
type guard struct{ files []guarded }

type guarded struct {
	path string
	file *os.File
	info fs.FileInfo // when it was locked
}

// hold locks a file. The error is qemuimg.ErrLocked if another process has it open for writing.
func (g *guard) hold(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	for _, at := range []int64{usesConsistentRead, deniesWrite, deniesResize} {
		lock := unix.Flock_t{Type: unix.F_RDLCK, Start: at, Len: 1}
		if err := unix.FcntlFlock(file.Fd(), unix.F_OFD_SETLK, &lock); err != nil {
			return errors.Join(fmt.Errorf("lock %s: %w", path, err), file.Close())
		}
	}
	for _, at := range []int64{usesWrite, usesResize, deniesConsistentRead} {
		lock := unix.Flock_t{Type: unix.F_WRLCK, Start: at, Len: 1}
		err := unix.FcntlFlock(file.Fd(), unix.F_OFD_GETLK, &lock)
		if err == nil && lock.Type != unix.F_UNLCK {
			err = qemuimg.ErrLocked
		}
		if err != nil {
			return errors.Join(fmt.Errorf("lock %s: %w", path, err), file.Close())
		}
	}
	info, err := file.Stat()
	if err != nil {
		return errors.Join(err, file.Close())
	}
	g.files = append(g.files, guarded{path, file, info})
	return nil
}

// named returns an error unless the paths still name the files that are locked.
func (g *guard) named() error {
	for _, f := range g.files {
		info, err := os.Stat(f.path)
		if err != nil {
			return err
		}
		if !os.SameFile(info, f.info) {
			return fmt.Errorf("%s is another file now", f.path)
		}
	}
	return nil
}

// unchanged returns an error if a file was written to since it was locked, by somebody who does
// not care about locks. Nothing shows that of a device.
func (g *guard) unchanged() error {
	for _, f := range g.files {
		info, err := f.file.Stat()
		if err != nil {
			return err
		}
		if info.Mode().IsRegular() && (info.Size() != f.info.Size() || !info.ModTime().Equal(f.info.ModTime())) {
			return fmt.Errorf("%s was changed while it was read", f.path)
		}
	}
	return nil
}

// device returns the path of a block device among the files, "" if there is none. libvirt gives a
// domain a node of its own for a device, in a mount namespace, and the locks of one node are
// not those of another: it can start.
func (g *guard) device() string {
	for _, f := range g.files {
		if !f.info.Mode().IsRegular() {
			return f.path
		}
	}
	return ""
}

// release lets writers in. It unlocks first: a process that this one is starting at this moment, for
// another domain, has the open files, too, until it executes its program (fork(2)).
func (g *guard) release() {
	for _, f := range g.files {
		_ = unix.FcntlFlock(f.file.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_UNLCK})
		_ = f.file.Close() // nothing was written
	}
	g.files = nil
}
