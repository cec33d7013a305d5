// Package chain looks up and reads what qcow2 images chained onto each other show.
package chain

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/qcow2"
)

// Chain looks up what images chained onto each other hold. It takes 12 bytes of
// memory for each L2 table of each image (24 KiB for a full image of 1 TiB), and
// keeps the maxWindows windows that were used last. It reads images of package
// qcow2 only: one cluster size, no subclusters, zstd. It is safe for concurrent use.
type Chain struct {
	layers  []layer // the top image first
	cluster int64   // bytes
	windows windows
	salvage *Salvage // nil: an error ends what meets it
}

// layer is one image of a chain.
type layer struct {
	r io.ReaderAt
	h qcow2.Header
	// The L1 table without its empty entries, most of those of an increment:
	// their indices, ascending, and what they hold.
	tables  []int32
	offsets []int64
	lost    error // why nothing of it can be read; nil: it can
	// visible is how many bytes of it can be seen through the layers above: behind
	// the end of each of them the disk reads as zeros.
	visible int64
}

// Error says that an image of a chain is not what it should be. An error of the
// caller's io.ReaderAt, other than the end of the image, does not say that: it is
// returned without a Error.
type Error struct{ error }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.error }

func chainError(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	var failed *readError
	if errors.As(err, &failed) {
		return err
	}
	return &Error{err}
}

// file marks the errors of an image's io.ReaderAt, to tell them from what is wrong
// with the image.
type file struct{ io.ReaderAt }

func (f file) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.ReaderAt.ReadAt(p, off)
	if err != nil && err != io.EOF {
		err = &readError{err}
	}
	return n, err
}

// readError is an error of a caller's io.ReaderAt.
type readError struct{ error }

func (e *readError) Unwrap() error { return e.error }

// Open reads the headers and L1 tables of images, base first. The files
// stay the caller's and must stay open; they are read by all readers of the chain
// side by side. Errors of a chain are *Error, or wrap what ReadAt has returned.
func Open(images []io.ReaderAt) (*Chain, error) {
	if len(images) == 0 {
		return nil, chainError("a chain without images")
	}
	c := &Chain{}
	layers, err := openLayers(len(images), func(i int) (layer, error) { return openLayer(file{images[len(images)-1-i]}) })
	if err != nil {
		return nil, err
	}
	for i, opened := range layers {
		err := opened.err
		if err == nil {
			err = c.add(opened.layer)
		}
		if err != nil {
			return nil, chainError("image %d of %d of a chain: %w", len(images)-i, len(images), err)
		}
	}
	return c, nil
}

// openAtOnce images are opened side by side: each takes some reads, most of which wait
// for the disk.
const openAtOnce = 8

// openedLayer is a layer, or why it could not be opened.
type openedLayer struct {
	layer
	err error
}

// openLayers opens n images, each by its number from the top. It fails itself only if a
// goroutine has panicked.
func openLayers(n int, open func(i int) (layer, error)) ([]openedLayer, error) {
	all := make([]openedLayer, n)
	var group panics.Group
	group.SetLimit(openAtOnce)
	for i := range all {
		group.Go(func() error {
			all[i].layer, all[i].err = open(i)
			return nil
		})
	}
	return all, group.Wait()
}

func openLayer(r io.ReaderAt) (layer, error) {
	h, err := qcow2.ReadHeader(r)
	if err != nil {
		return layer{}, err
	}
	if h.Incompatible&(qcow2.IncompatibleExternalData|qcow2.IncompatibleExtendedL2) != 0 || h.Encryption != 0 {
		return layer{}, fmt.Errorf("incompatible features %#x, encryption %d: not an image of package qcow2", h.Incompatible, h.Encryption)
	}
	l := layer{r: r, h: h, visible: h.VirtualSize}
	if err := l.readL1(); err != nil {
		return layer{}, fmt.Errorf("read the L1 table: %w", err)
	}
	return l, nil
}

// add puts a layer below those that there are.
func (c *Chain) add(l layer) error {
	if n := len(c.layers); n > 0 {
		l.visible = min(l.visible, c.layers[n-1].visible)
	}
	if c.cluster != 0 && c.cluster != int64(l.h.ClusterSize) {
		return fmt.Errorf("clusters of %d bytes, those above have %d", l.h.ClusterSize, c.cluster)
	}
	c.cluster = int64(l.h.ClusterSize)
	c.layers = append(c.layers, l)
	return nil
}

// readL1 reads the L1 table a cluster at a time.
func (l *layer) readL1() error {
	size := 8 * l.h.Tables()
	buf := make([]byte, min(size, int64(l.h.ClusterSize)))
	for at := int64(0); at < size; at += int64(len(buf)) {
		p := buf[:min(int64(len(buf)), size-at)]
		if _, err := io.ReadFull(io.NewSectionReader(l.r, l.h.L1Offset+at, int64(len(p))), p); err != nil {
			return err
		}
		for i := 0; i < len(p); i += 8 {
			if offset := qcow2.TableOffset(binary.BigEndian.Uint64(p[i:])); offset != 0 {
				l.tables, l.offsets = append(l.tables, int32(at/8)+int32(i/8)), append(l.offsets, offset)
			}
		}
	}
	l.tables, l.offsets = slices.Clip(l.tables), slices.Clip(l.offsets)
	return nil
}

// Size is that of the disk in bytes.
func (c *Chain) Size() int64 { return c.layers[0].h.VirtualSize }

// Images is how many images the chain has.
func (c *Chain) Images() int { return len(c.layers) }

// Header is that of image i, 0 for the top one.
func (c *Chain) Header(i int) qcow2.Header { return c.layers[i].h }

// Visible is how many bytes of image i, 0 for the top one, can be seen at most: no more
// than the smallest size of it and those above it. Behind that its data is hidden, even in
// the middle of a cluster.
func (c *Chain) Visible(i int) int64 { return c.layers[i].visible }

// ClusterSize is that of all images, in bytes.
func (c *Chain) ClusterSize() int64 { return c.cluster }

// WindowSize is how much of the disk a window describes, in bytes.
func (c *Chain) WindowSize() int64 { return c.layers[0].h.TableCovers() }

// Windows is the number of windows that the disk has.
func (c *Chain) Windows() int64 { return (c.Size() + c.WindowSize() - 1) / c.WindowSize() }

// table reads L2 table i into memory that the next one uses again; nil where
// there is none.
func (l *layer) table(i int64, buf *[]byte) ([]byte, error) {
	if l.lost != nil {
		return nil, l.lost
	}
	k, ok := slices.BinarySearch(l.tables, int32(i))
	if !ok {
		return nil, nil
	}
	if *buf == nil {
		*buf = directio.Buffer(l.h.ClusterSize)
	}
	if _, err := l.r.ReadAt(*buf, l.offsets[k]); err != nil {
		return nil, chainError("read the L2 table at offset %d: %w", l.offsets[k], err)
	}
	return *buf, nil
}
