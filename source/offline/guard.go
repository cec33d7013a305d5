package offline

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/virtbackup/virtbackup/internal/imagelock"
	"github.com/virtbackup/virtbackup/internal/qemuimg"
)

// guard keeps writers away from image files, by QEMU's own locks, and notices those that come all
// the same: they do not care about locks, or have another node of a block device, as a domain in a
// mount namespace of its own.
type guard struct{ files []guarded }

type guarded struct {
	path   string
	lock   *imagelock.Lock
	info   fs.FileInfo // when it was locked
	writes string      // to a block device until then, by the kernel's counters
}

// hold locks a file. The error is qemuimg.ErrLocked if another process has it open for writing.
func (g *guard) hold(path string) error {
	lock, err := imagelock.ExcludeWriters(path)
	if errors.Is(err, imagelock.ErrHeld) {
		err = fmt.Errorf("%w: %w", qemuimg.ErrLocked, err)
	}
	if err != nil {
		return err
	}
	held := guarded{path: path, lock: lock}
	if held.info, err = lock.Stat(); err == nil && !held.info.Mode().IsRegular() {
		err = imagelock.WriteOut(path)
	}
	if err == nil {
		held.writes, err = imagelock.Writes(held.info)
	}
	if err != nil {
		return errors.Join(err, lock.Close())
	}
	g.files = append(g.files, held)
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

// unchanged returns an error if a file or device was written to since it was locked.
func (g *guard) unchanged() error {
	for _, f := range g.files {
		info, err := f.lock.Stat()
		if err != nil {
			return err
		}
		counted, err := imagelock.Writes(info)
		if err != nil {
			return err
		}
		if info.Mode().IsRegular() && (info.Size() != f.info.Size() || !info.ModTime().Equal(f.info.ModTime())) || counted != f.writes {
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
		_ = f.lock.Close() // nothing was written
	}
	g.files = nil
}
