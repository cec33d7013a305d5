package hashlist

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"lukechampine.com/blake3"

	"github.com/virtbackup/virtbackup/internal/digest"
)

// SegmentRanges are what the common write has: package qcow2 writes 1 MiB at once.
const SegmentRanges = (1 << 20) / RangeLength

// ReadWriterAt is the file of a list that is being written.
type ReadWriterAt interface {
	io.ReaderAt
	io.WriterAt
}

// Writer makes the hash list of an image while that is written. Each write carries
// whole ranges of RangeLength bytes and puts their hashes straight into the
// file of the list, so memory does not grow with the image.
type Writer struct {
	image string // its name, for errors
	list  ReadWriterAt

	mu    sync.Mutex
	size  int64
	short map[int64]int64 // ranges written in part: offset -> end
}

// NewWriter makes a list in an empty file, which stays the caller's. image names the image
// in errors.
func NewWriter(image string, list ReadWriterAt) *Writer {
	return &Writer{image: image, list: list, short: map[int64]int64{}}
}

// Add hashes what is written to the image: whole ranges, off is a multiple of RangeLength
// bytes, len(p) of 512, and only the last range of the file may be shorter than
// RangeLength. A range may be written again; its hash is replaced. p is not kept. Concurrent
// calls for different ranges are safe.
func (w *Writer) Add(p []byte, off int64) error {
	if err := w.note(off, int64(len(p))); err != nil {
		return err
	}
	var sums [SegmentRanges * hashSize]byte
	if _, err := w.list.WriteAt(appendHashes(sums[:0], p, RangeLength), layout{unit: RangeLength}.hashOffset(off)); err != nil {
		return fmt.Errorf("write hash of offset %d: %w", off, err)
	}
	return nil
}

// note checks a write and records what Finish must know of it.
func (w *Writer) note(off, length int64) error {
	if off < 0 || off%RangeLength != 0 || length == 0 || length%512 != 0 || off > MaxImage-length {
		return fmt.Errorf("write %d bytes at offset %d of %s: not whole ranges", length, off, w.image)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	end := off + length
	w.size = max(w.size, end)
	for start := range w.short {
		if off <= start && start < end {
			delete(w.short, start)
		}
	}
	if tail := end % RangeLength; tail != 0 {
		w.short[end-tail] = end
	}
	return nil
}

// Size is the length of the image so far, bytes. It is an error where a range was written
// in part that is not the last one.
func (w *Writer) Size() (int64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for start, end := range w.short {
		if end != w.size {
			return 0, fmt.Errorf("the range at offset %d was written in part", start)
		}
	}
	return w.size, nil
}

// Finish completes the list and returns its digest. Every range must have been written, and
// no write may be under way. The file is the caller's to sync and close.
func (w *Writer) Finish() (digest string, err error) {
	size, err := w.Size()
	if err != nil {
		return "", err
	}
	l := layout{size, RangeLength}
	if _, err := w.list.WriteAt(l.header(), 0); err != nil {
		return "", err
	}
	return finishHashes(w.list, l)
}

// finishHashes reads the whole list once, for its digest and to find ranges that
// were never written: those have a hash of 32 zero bytes, which no data has. It
// writes the tree behind the list, if that has one.
func finishHashes(f ReadWriterAt, l layout) (string, error) {
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
