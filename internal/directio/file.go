// Package directio writes large files past the host's page cache, which is the
// guests' to use, at the speed of the disk.
package directio

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/eintr"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
)

// Mode says whether a file is written past the page cache.
type Mode int

// The modes. The zero value is the right one but for tests and measurements.
const (
	Auto   Mode = iota // O_DIRECT where the file system takes it
	Never              // through the page cache, which is emptied behind the writes
	Always             // O_DIRECT or an error
)

// ErrRefused is the cause where a file system does not do what Always wants.
var ErrRefused = fail.Sentinel(fail.Other,
	"--direct auto writes through the page cache there, and empties it behind itself",
	"the file system refuses O_DIRECT")

// File is a file, mostly a new one, written in large aligned pieces and read at any alignment. Its methods
// are safe for concurrent use, except for a read and a write of the same bytes.
type File struct {
	file   *os.File // written
	reader *os.File // read: through the page cache, so without rules of alignment
	mode   Mode
	direct atomic.Bool
	behind writeBehind

	mu    sync.Mutex
	grows bool
	ahead int64 // the file is allocated up to here; -1: the file system does not do that

	taken atomic.Int64 // see Taken
}

// Create makes a file that must not exist. The caller closes it. With an error, no file
// was made, or it is removed.
func Create(path string, perm os.FileMode, mode Mode) (_ *File, err error) {
	f := &File{mode: mode}
	if f.file, err = f.create(path, perm); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(path))
		}
	}()
	if f.reader, err = os.Open(path); err != nil {
		return nil, err
	}
	// Only single tables are read: no read-ahead into the page cache.
	_ = unix.Fadvise(int(f.reader.Fd()), 0, 0, unix.FADV_RANDOM) // advice: may fail
	return f, nil
}

// Open opens a file or a block device that exists, to be written in place; flags are
// further ones of open(2), such as O_EXCL. The caller closes it.
func Open(path string, flags int, mode Mode) (_ *File, err error) {
	f := &File{mode: mode}
	if f.file, err = os.OpenFile(path, os.O_WRONLY|flags, 0); err != nil {
		return nil, err
	}
	if mode != Never {
		err = setDirect(f.file, true)
		f.direct.Store(err == nil)
		if err != nil && (mode == Always || !errors.Is(err, unix.EINVAL)) {
			return nil, errors.Join(refused(err), f.file.Close())
		}
	}
	if f.reader, err = os.Open(path); err != nil {
		return nil, errors.Join(err, f.file.Close())
	}
	return f, nil
}

// create sets O_DIRECT only once the file is there: an open(2) that refuses
// O_DIRECT may leave the file behind.
func (f *File) create(path string, perm os.FileMode) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil || f.mode == Never {
		return file, err
	}
	err = setDirect(file, true)
	f.direct.Store(err == nil)
	if err == nil || f.mode == Auto && errors.Is(err, unix.EINVAL) {
		return file, nil
	}
	return nil, errors.Join(refused(err), file.Close(), os.Remove(path))
}

// refused names an error as ErrRefused if it is what such a file system returns.
func refused(err error) error {
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return err
}

func setDirect(f *os.File, on bool) error {
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err == nil {
		flags &^= unix.O_DIRECT
		if on {
			flags |= unix.O_DIRECT
		}
		_, err = unix.FcntlInt(f.Fd(), unix.F_SETFL, flags)
	}
	if err != nil {
		return &os.PathError{Op: "set O_DIRECT", Path: f.Name(), Err: err}
	}
	return nil
}

// Name is the path that the file was made with.
func (f *File) Name() string { return f.file.Name() }

// Direct says whether the file is being written past the page cache.
func (f *File) Direct() bool { return f.direct.Load() }

// Grow says that the file will be written from front to back without holes, so
// that space may be allocated ahead of the writes; Truncate it at the end. See
// allocate.
func (f *File) Grow() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.grows = true
}

// WriteAt writes p, which stays the caller's. For O_DIRECT p starts at a
// multiple of 4096 bytes in memory, and off and len(p) are multiples of 512 (of
// the device's block, where that is larger); a file that falls back to the page
// cache takes anything.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	f.allocate(off + int64(len(p)))
	wasDirect := f.Direct()
	n, err := f.file.WriteAt(p, off)
	// Some file systems accept the flag and refuse the write. A writer that
	// failed while another one fell back has nothing left to switch off.
	if wasDirect && f.mode == Auto && errors.Is(err, unix.EINVAL) {
		if err := setDirect(f.file, false); err != nil {
			return 0, err
		}
		f.direct.Store(false)
		n, err = f.file.WriteAt(p, off)
	}
	if err == nil && !f.Direct() {
		err = f.behind.wrote(f.file, off, int64(len(p)))
	}
	return n, err
}

// How far ahead of the writes space is allocated: as much as there is already,
// within these bounds. A small incremental takes no more than it needs; larger
// steps than 256 MiB were not faster. A small file system is not filled with space that may
// never be used: several files grow there at once, and others need space, too.
const (
	minAhead   = 16 << 20
	maxAhead   = 256 << 20
	shareAhead = 64 // of the free space at most one part in so many
)

// allocate makes the file long enough for a write up to end before the write
// is made, and more. With O_DIRECT, ext4 makes writes that extend a file or fill
// a hole wait for one another on the inode's lock; into allocated space they go
// in parallel. Measured on ext4 (Linux 6.18, 4 writers of 1 MiB, 2 GiB with
// O_DIRECT and fdatasync, medians of 7 rounds in turns): no allocation 1.38 s,
// steps of 256 MiB 1.12 s, these doubling steps 1.13 s, overwriting a whole file
// (the limit) 0.82 s. FALLOC_FL_KEEP_SIZE (1.45 s) and ftruncate ahead do not
// help: it takes both, the size and blocks. Allocation is only an optimisation: if it fails (no
// such call, no space for a step), the writes decide.
func (f *File) allocate(end int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.takes(end)
	if !f.grows || f.ahead < 0 || end <= f.ahead || !f.Direct() {
		return
	}
	to := end + min(maxAhead, max(minAhead, f.ahead), f.spare())
	before := f.Taken()
	f.takes(to)
	err := eintr.Retry(func() error { return unix.Fallocate(int(f.file.Fd()), 0, f.ahead, to-f.ahead) })
	if err != nil {
		f.taken.Store(before)
		f.ahead = -1
		return
	}
	f.ahead = to
}

func (f *File) takes(end int64) { f.taken.Store(max(f.taken.Load(), end)) }

// Taken is an upper bound of the space that the file has taken so far, in bytes: up to where
// it is written or allocated, writes under way included. It makes no system call, because the
// file system may hang.
func (f *File) Taken() int64 { return f.taken.Load() }

// spare is how much may be allocated ahead of what is free, in whole MiB.
func (f *File) spare() int64 {
	var s unix.Statfs_t
	if err := unix.Fstatfs(int(f.file.Fd()), &s); err != nil || s.Blocks == 0 {
		return maxAhead // some file systems do not report their free space
	}
	return int64(s.Bavail) * s.Frsize / shareAhead >> 20 << 20
}

// ReadAt reads back what was written, at any offset and into any memory.
func (f *File) ReadAt(p []byte, off int64) (int, error) { return f.reader.ReadAt(p, off) }

// Zero makes length bytes from off on read as zeros, without their space as far as the file
// system or the device can do that. A device that is only told to discard need not read as zeros
// then; these calls make sure (fallocate(2); for devices block/fops.c in Linux, which zeroes
// with BLKDEV_ZERO_NOFALLBACK where a hole is asked for). No write of the same bytes may be under
// way.
func (f *File) Zero(off, length int64) error {
	var err error
	for _, mode := range []uint32{unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE} {
		err = eintr.Retry(func() error { return unix.Fallocate(int(f.file.Fd()), mode, off, length) })
		if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EINVAL) {
			break
		}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL):
		return f.writeZeros(off, length)
	}
	return &os.PathError{Op: fmt.Sprintf("zero %d bytes at offset %d of", length, off), Path: f.Name(), Err: err}
}

// writeZeros writes them out.
func (f *File) writeZeros(off, length int64) error {
	zeros := Buffer(int(min(length, 1<<20)))
	for length > 0 {
		n := min(length, int64(len(zeros)))
		if _, err := f.WriteAt(zeros[:n], off); err != nil {
			return err
		}
		off, length = off+n, length-n
	}
	return nil
}

// Truncate sets the length of the file in bytes.
func (f *File) Truncate(size int64) error {
	err := f.file.Truncate(size)
	if err == nil {
		f.taken.Store(size)
	}
	return err
}

// Allocate takes the space for so many bytes of the file from the start on
// (posix_fallocate(3)): what is not written reads as zeros. The file is as long afterwards, or
// longer.
func (f *File) Allocate(length int64) error {
	if length == 0 {
		return nil
	}
	err := eintr.Retry(func() error { return unix.Fallocate(int(f.file.Fd()), 0, 0, length) })
	if err != nil {
		return &os.PathError{Op: "fallocate", Path: f.Name(), Err: err}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.takes(length)
	return nil
}

// Sync puts the data on stable storage (fdatasync; the size is part of it).
func (f *File) Sync() error {
	return fault.Around("fsync "+filepath.Base(f.Name()), func() error {
		if err := eintr.Retry(func() error { return unix.Fdatasync(int(f.file.Fd())) }); err != nil {
			return &os.PathError{Op: "fdatasync", Path: f.Name(), Err: err}
		}
		return nil
	})
}

// Close closes the file; it does not sync. Once is enough.
func (f *File) Close() error {
	var errs []error
	for _, file := range []*os.File{f.file, f.reader} {
		if file != nil {
			errs = append(errs, file.Close())
		}
	}
	return errors.Join(errs...)
}
