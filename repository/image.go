package repository

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"lukechampine.com/blake3"

	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
)

// segmentRanges are what the common write has: package qcow2 writes 1 MiB at once.
const segmentRanges = (1 << 20) / hashlist.RangeLength

// Image is an image file that is written and hashed at once. Each write carries
// whole ranges of RangeLength bytes and puts their hashes straight into the
// hash list file, so memory does not grow with the image.
type Image struct {
	file   *directio.File
	hashes *os.File

	mu       sync.Mutex
	size     int64
	short    map[int64]int64 // ranges written in part: offset -> end
	closed   bool
	complete bool
	digest   string
}

// createImage makes path.qcow2 and path.hashes; neither may exist.
func createImage(path string, mode directio.Mode) (_ *Image, err error) {
	im := &Image{short: map[int64]int64{}}
	if im.file, err = directio.Create(path+manifest.ImageSuffix, localfile.FileMode, mode); err != nil {
		return nil, err
	}
	im.file.Grow()
	im.hashes, err = os.OpenFile(path+manifest.HashesSuffix, os.O_RDWR|os.O_CREATE|os.O_EXCL, localfile.FileMode)
	if err != nil {
		return nil, errors.Join(err, im.file.Close())
	}
	return im, nil
}

// Direct says whether the image is being written past the page cache.
func (im *Image) Direct() bool { return im.file.Direct() }

// Taken is how many bytes image and hash list have taken of their file system by now at
// most. It asks no file system, which may hang.
func (im *Image) Taken() int64 {
	image := im.file.Taken()
	return image + HashListBytes(image)
}

// WriteAt hashes and writes whole ranges: off is a multiple of RangeLength
// bytes, len(p) of 512, and only the last range of the file may be shorter than
// RangeLength. For O_DIRECT p starts at a multiple of 4096 in memory. A range
// may be written again; its hash is replaced. p belongs to the caller and is
// not kept. Concurrent calls for different ranges are safe.
func (im *Image) WriteAt(p []byte, off int64) (int, error) {
	if err := im.note(off, int64(len(p))); err != nil {
		return 0, err
	}
	var sums [segmentRanges * hashSize]byte
	if _, err := im.hashes.WriteAt(appendHashes(sums[:0], p, hashlist.RangeLength), layout{unit: hashlist.RangeLength}.hashOffset(off)); err != nil {
		return 0, fmt.Errorf("write hash of offset %d: %w", off, err)
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

// note checks a write and records what Finish must know of it.
func (im *Image) note(off, length int64) error {
	if off < 0 || off%hashlist.RangeLength != 0 || length == 0 || length%512 != 0 || off > hashlist.MaxImage-length {
		return fmt.Errorf("write %d bytes at offset %d of %s: not whole ranges", length, off, im.file.Name())
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	if im.closed {
		return fmt.Errorf("write at offset %d of %s: %w", off, im.file.Name(), os.ErrClosed)
	}
	end := off + length
	im.size = max(im.size, end)
	for start := range im.short {
		if off <= start && start < end {
			delete(im.short, start)
		}
	}
	if tail := end % hashlist.RangeLength; tail != 0 {
		im.short[end-tail] = end
	}
	return nil
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
	if err := im.checkRanges(); err != nil {
		return "", 0, fmt.Errorf("finish %s: %w", im.file.Name(), err)
	}
	if err := im.file.Truncate(im.size); err != nil { // space was allocated ahead
		return "", 0, fmt.Errorf("finish image: %w", err)
	}
	list := layout{im.size, hashlist.RangeLength}
	if _, err := im.hashes.WriteAt(list.header(), 0); err != nil {
		return "", 0, fmt.Errorf("finish hash list: %w", err)
	}
	digest, err := finishHashes(im.hashes, list)
	if err != nil {
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
	im.complete, im.digest = true, digest
	return digest, im.size, nil
}

func (im *Image) checkRanges() error {
	im.mu.Lock()
	defer im.mu.Unlock()
	if im.closed {
		return os.ErrClosed
	}
	for start, end := range im.short {
		if end != im.size {
			return fmt.Errorf("the range at offset %d was written in part", start)
		}
	}
	return nil
}

// finishHashes reads the whole list once, for its digest and to find ranges that
// were never written: those have a hash of 32 zero bytes, which no data has. It
// writes the tree behind the list, if that has one.
func finishHashes(f *os.File, l layout) (string, error) {
	h := blake3.New(hashSize, nil)
	buf := make([]byte, pieceOfList)
	var tree listTree
	for at, end := int64(0), l.hashesSize(); at < end; at += pieceOfList {
		piece := buf[:min(pieceOfList, end-at)]
		if _, err := f.ReadAt(piece, at); err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the last range was never written")
			}
			return "", err
		}
		if i := zeroHash(piece); i >= 0 {
			return "", fmt.Errorf("the range at offset %d was never written", ((at-hashesHeaderSize)/hashSize+int64(i))*l.unit)
		}
		h.Write(piece)
		tree.add(piece)
	}
	if l.treeSize() > 0 {
		if _, err := f.WriteAt(tree.encode(), l.hashesSize()); err != nil {
			return "", err
		}
	}
	return digest.Text(h.Sum(nil)), nil
}

func zeroHash(sums []byte) int {
	for i := 0; i+hashSize <= len(sums); i += hashSize {
		if [hashSize]byte(sums[i:]) == [hashSize]byte{} {
			return i / hashSize
		}
	}
	return -1
}

// finished returns what Finish returned, ok only where it succeeded.
func (im *Image) finished() (digest string, size int64, ok bool) {
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
