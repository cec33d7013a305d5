package diskimage

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
)

// Image is an image file that is written and hashed at once. Each write carries
// whole ranges of RangeLength bytes and puts their hashes straight into the
// hash list file, so memory does not grow with the image.
type Image struct {
	file   *directio.File
	hashes *os.File
	list   *hashlist.Writer

	mu       sync.Mutex
	closed   bool
	complete bool
	size     int64 // once it is complete
	digest   string
}

// Create makes path.qcow2 and path.hashes; neither may exist.
func Create(path string, mode directio.Mode) (_ *Image, err error) {
	im := &Image{}
	if im.file, err = directio.Create(path+manifest.ImageSuffix, localfile.FileMode, mode); err != nil {
		return nil, err
	}
	im.file.Grow()
	im.hashes, err = os.OpenFile(path+manifest.HashesSuffix, os.O_RDWR|os.O_CREATE|os.O_EXCL, localfile.FileMode)
	if err != nil {
		return nil, errors.Join(err, im.file.Close())
	}
	im.list = hashlist.NewWriter(im.file.Name(), im.hashes)
	return im, nil
}

// Direct says whether the image is being written past the page cache.
func (im *Image) Direct() bool { return im.file.Direct() }

// Taken is how many bytes image and hash list have taken of their file system by now at
// most. It asks no file system, which may hang.
func (im *Image) Taken() int64 {
	image := im.file.Taken()
	return image + hashlist.FileSize(image)
}

// WriteAt hashes and writes whole ranges: off is a multiple of RangeLength
// bytes, len(p) of 512, and only the last range of the file may be shorter than
// RangeLength. For O_DIRECT p starts at a multiple of 4096 in memory. A range
// may be written again; its hash is replaced. p belongs to the caller and is
// not kept. Concurrent calls for different ranges are safe.
func (im *Image) WriteAt(p []byte, off int64) (int, error) {
	if im.isClosed() {
		return 0, fmt.Errorf("write at offset %d of %s: %w", off, im.file.Name(), os.ErrClosed)
	}
	if err := im.list.Add(p, off); err != nil {
		return 0, err
	}
	if err := fault.Point("write image"); err != nil {
		return 0, fmt.Errorf("write %d bytes at offset %d: %w", len(p), off, err)
	}
	n, err := im.file.WriteAt(p, off)
	if err != nil {
		return n, fmt.Errorf("write %d bytes at offset %d: %w", len(p), off, err)
	}
	return n, nil
}

// ReadAt reads back what was written, at any offset and into any memory. It
// must not run beside a write of the same range.
func (im *Image) ReadAt(p []byte, off int64) (int, error) { return im.file.ReadAt(p, off) }

// Sync puts the image's data on stable storage.
func (im *Image) Sync() error { return im.file.Sync() }

// Finish completes the hash list, puts both files on stable storage and closes
// them. It returns the digest of the hash list and the length of the image in
// bytes. Every range must have been written, and no write may be under way. A
// failed image is closed by the point's Discard.
func (im *Image) Finish() (hashes string, size int64, err error) {
	if im.isClosed() {
		return "", 0, fmt.Errorf("finish %s: %w", im.file.Name(), os.ErrClosed)
	}
	if size, err = im.list.Size(); err != nil {
		return "", 0, fmt.Errorf("finish %s: %w", im.file.Name(), err)
	}
	if err := im.file.Truncate(size); err != nil { // space was allocated ahead
		return "", 0, fmt.Errorf("finish image: %w", err)
	}
	if hashes, err = im.list.Finish(); err != nil {
		return "", 0, fmt.Errorf("finish %s: %w", im.hashes.Name(), err)
	}
	if err := errors.Join(im.file.Sync(), localfile.Sync(im.hashes)); err != nil {
		return "", 0, fmt.Errorf("finish image: %w", err)
	}
	if err := im.Close(); err != nil {
		return "", 0, fmt.Errorf("finish image: %w", err)
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	im.complete, im.digest, im.size = true, hashes, size
	return hashes, size, nil
}

func (im *Image) isClosed() bool {
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.closed
}

// Finished returns what Finish returned, ok only where it succeeded.
func (im *Image) Finished() (digest string, size int64, ok bool) {
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.digest, im.size, im.complete
}

// Close closes the files without completing them; it does nothing after Finish.
func (im *Image) Close() error {
	im.mu.Lock()
	defer im.mu.Unlock()
	if im.closed {
		return nil
	}
	im.closed = true
	return errors.Join(im.file.Close(), im.hashes.Close())
}
