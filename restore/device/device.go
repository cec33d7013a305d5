package device

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/eintr"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
)

// Device is a block device that is open for writing, by this process alone. Its methods may be
// called side by side for different bytes.
type Device struct {
	path   string
	file   *os.File // O_EXCL, through the page cache: for what is not whole blocks
	direct *os.File // O_DIRECT
	size   int64    // bytes
	block  int64    // the unit of O_DIRECT, bytes
}

// Open opens a block device for writing, and keeps others from using it: a file system cannot
// be mounted from it, nor from a partition of it (O_EXCL in open(2)), and QEMU does not open it.
// The error is of fail.Usage, with a hint, if path is no block device, if it is read-only or if
// it is in use, and says by whom. Nothing is written yet.
func Open(path string) (_ *Device, err error) {
	numbers, err := numbersOf(path)
	if err != nil {
		return nil, err
	}
	d := &Device{path: path}
	d.file, err = os.OpenFile(path, os.O_RDWR|unix.O_EXCL, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return nil, inUse(path, numbers.users())
	case errors.Is(err, unix.EROFS):
		return nil, readOnly(path)
	case err != nil:
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	if err := d.lock(); err != nil {
		return nil, inUse(path, numbers.users())
	}
	if by := append(numbers.writers(), numbers.loops()...); len(by) > 0 {
		return nil, inUse(path, by)
	}
	// Root may open a read-only device for writing; only the writes fail.
	if value, err := unix.IoctlGetInt(int(d.file.Fd()), unix.BLKROGET); err != nil || value != 0 {
		return nil, cmp.Or(err, readOnly(path))
	}
	return d, d.measure()
}

func readOnly(path string) error {
	return fail.Errorf(fail.Usage, "blockdev --setrw, or name another device", "device %s is read-only", path)
}

// lock takes what QEMU locks of a file that it opens (RAW_LOCK_PERM_BASE and
// RAW_LOCK_SHARED_BASE in block/file-posix.c), so that each finds out about the other.
func (d *Device) lock() error {
	return unix.FcntlFlock(d.file.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Start: 100, Len: 200})
}

// measure finds out the size and the unit, and opens the device for O_DIRECT.
func (d *Device) measure() error {
	size, err := ioctl(d.file, unix.BLKGETSIZE64)
	if err != nil {
		return err
	}
	block, err := unix.IoctlGetInt(int(d.file.Fd()), unix.BLKSSZGET)
	if err != nil {
		return &os.PathError{Op: "BLKSSZGET", Path: d.path, Err: err}
	}
	d.size, d.block = int64(size), int64(block)
	d.direct, err = os.OpenFile(d.path, os.O_RDWR|unix.O_DIRECT, 0)
	return err
}

// ioctl is one that returns 64 bits.
func ioctl(f *os.File, request uint) (value uint64, err error) {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(request), uintptr(unsafe.Pointer(&value)))
	if errno != 0 {
		return 0, &os.PathError{Op: "ioctl", Path: f.Name(), Err: errno}
	}
	return value, nil
}

// Path is what the device was opened with.
func (d *Device) Path() string { return d.path }

// Size is that of the device in bytes.
func (d *Device) Size() int64 { return d.size }

// WriteAt writes p. Whole blocks go past the page cache if p is page-aligned.
func (d *Device) WriteAt(p []byte, off int64) (int, error) {
	whole := int64(len(p)) / d.block * d.block
	if off%d.block != 0 {
		whole = 0
	}
	n, err := d.direct.WriteAt(p[:whole], off)
	if err == nil && int64(n) < int64(len(p)) {
		var more int
		more, err = d.file.WriteAt(p[n:], off+int64(n))
		n += more
	}
	return n, err
}

// zeroStep bytes are zeroed by one call, which nothing interrupts.
const zeroStep = 64 << 20

// Zero makes length bytes from off on read as zeros. Where the device can it does that itself,
// and may give up the space (BLKZEROOUT). Cancelling ctx stops it.
func (d *Device) Zero(ctx context.Context, off, length int64) error {
	for length > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := fault.Point("device: zero"); err != nil {
			return err
		}
		n := min(length, zeroStep)
		if err := d.zero(off, n); err != nil {
			return fmt.Errorf("zero %d bytes at offset %d: %w", n, off, err)
		}
		off, length = off+n, length-n
	}
	return nil
}

func (d *Device) zero(off, length int64) error {
	whole := length / d.block * d.block
	if off%d.block != 0 {
		whole = 0
	}
	if whole > 0 && !d.zeroOut(off, whole) {
		whole = 0
	}
	return d.writeZeros(off+whole, length-whole)
}

// zeroOut lets the device write zeros. If it fails, whyever, they are written from here.
func (d *Device) zeroOut(off, length int64) bool {
	run := [2]uint64{uint64(off), uint64(length)}
	return eintr.Retry(func() error {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, d.file.Fd(), unix.BLKZEROOUT, uintptr(unsafe.Pointer(&run)))
		if errno != 0 {
			return errno
		}
		return nil
	}) == nil
}

func (d *Device) writeZeros(off, length int64) error {
	if length == 0 {
		return nil
	}
	zeros := directio.Buffer(int(min(length, 1<<20)))
	for length > 0 {
		n, err := d.WriteAt(zeros[:min(length, int64(len(zeros)))], off)
		if err != nil {
			return err
		}
		off, length = off+int64(n), length-int64(n)
	}
	return nil
}

// Sync puts all that was written on stable storage.
func (d *Device) Sync() error {
	return fault.Around("fsync device", func() error {
		if err := eintr.Retry(func() error { return unix.Fdatasync(int(d.file.Fd())) }); err != nil {
			return &os.PathError{Op: "fdatasync", Path: d.path, Err: err}
		}
		return nil
	})
}

// Close closes the device; it does not sync.
func (d *Device) Close() error {
	var errs []error
	for _, f := range []*os.File{d.direct, d.file} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}
