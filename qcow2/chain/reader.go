package chain

import (
	"bytes"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/qcow2"
)

// maxPacked is how much of a file is read at once for compressed clusters that lie
// side by side, in bytes. One of them is smaller than the largest cluster, so it
// fits.
const maxPacked = qcow2.MaxClusterSize

// pageSize is the alignment in the file that O_DIRECT needs.
const pageSize = 4096

// Reader reads the content of a chain for one caller at a time. It keeps the
// window that it used last.
type Reader struct {
	chain  *Chain
	window *Window // nil where no image says anything of window number
	number int64   // -1: none yet
	packed []byte  // page-aligned
	frames []byte  // what Frames has returned
	zstd   *zstd.Decoder

	// Of ReadAt: the clusters that it reads, and the one that it keeps; keptAt is -1 where there
	// is none.
	offsets []int64
	kept    []byte
	keptAt  int64
}

// NewReader returns a reader; those of one chain may be used side by side.
func (c *Chain) NewReader() *Reader { return &Reader{chain: c, number: -1, keptAt: -1} }

// Size is that of the disk in bytes.
func (r *Reader) Size() int64 { return r.chain.Size() }

// cell looks up the cluster at an offset of the disk.
func (r *Reader) cell(offset int64) (cell, error) {
	c := r.chain
	i := offset / c.WindowSize()
	if offset >= c.Size() {
		return cell{}, nil
	}
	if i != r.number {
		w, err := c.Window(i)
		if err != nil {
			return cell{}, err
		}
		r.window, r.number = w, i
	}
	return r.window.cell(offset), nil
}

// Read fills buf with the clusters at offsets, bytes and multiples of the chain's
// cluster size, one behind the other. Clusters that no image has, and what
// is behind the end of the disk, are zeros. Page-aligned memory is read into without
// a copy.
func (r *Reader) Read(buf []byte, offsets []int64) error {
	for len(offsets) > 0 {
		n, err := r.readRun(buf, offsets)
		if r.chain.isLost(err) {
			n, err = len(offsets), r.salvage(buf, offsets)
		}
		if err != nil {
			return chainError("read the cluster at guest offset %d: %w", offsets[0], err)
		}
		buf, offsets = buf[int64(n)*r.chain.cluster:], offsets[n:]
	}
	return nil
}

// readRun reads the first of the clusters, and those behind it that are read
// together with it, and returns their number.
func (r *Reader) readRun(buf []byte, offsets []int64) (int, error) {
	first, err := r.cell(offsets[0])
	if err != nil {
		return 0, err
	}
	switch {
	case first.entry == 0:
		clear(buf[:r.chain.cluster])
		return 1, nil
	case qcow2.IsCompressed(first.entry):
		return r.readPacked(buf, offsets)
	}
	return r.readPlain(first, buf, offsets)
}

// readPlain reads clusters that lie in one file as they will in buf.
func (r *Reader) readPlain(first cell, buf []byte, offsets []int64) (int, error) {
	cluster := r.chain.cluster
	l := r.chain.layers[first.layer]
	at := l.h.DataOf(first.entry).Offset
	n := 1
	for ; n < len(offsets); n++ {
		next, err := r.cell(offsets[n])
		if err != nil {
			return 0, err
		}
		if next.layer != first.layer || qcow2.IsCompressed(next.entry) || l.h.DataOf(next.entry).Offset != at+int64(n)*cluster {
			break
		}
	}
	if _, err := io.ReadFull(io.NewSectionReader(l.r, at, int64(n)*cluster), buf[:int64(n)*cluster]); err != nil {
		return 0, err
	}
	for i, offset := range offsets[:n] {
		l.hide(buf[int64(i)*cluster:int64(i+1)*cluster], offset)
	}
	return n, nil
}

// hide zeroes what a cluster has behind the visible part of the layer.
func (l *layer) hide(p []byte, offset int64) {
	if end := l.visible - offset; end < int64(len(p)) {
		clear(p[max(0, end):])
	}
}

// packedRun are compressed clusters of one file that were read at once.
type packedRun struct {
	layer layer
	parts []qcow2.Range // of the file, in its order
	start int64         // of data in the file
	data  []byte        // the reader's
}

// packed is part i of the run. Its length is in sectors, so the last one may reach behind
// the end of the file.
func (p packedRun) packed(i int) []byte {
	at, length := p.parts[i].Offset-p.start, int64(len(p.data))
	return p.data[min(at, length):min(at+p.parts[i].Length, length)]
}

// packedRun reads the first of the clusters and those behind it that are compressed in the
// same file, in the order of the file and within maxPacked bytes of it. There are none if
// the first is not compressed.
func (r *Reader) packedRun(offsets []int64) (packedRun, error) {
	first, err := r.cell(offsets[0])
	if err != nil || !qcow2.IsCompressed(first.entry) {
		return packedRun{}, err
	}
	l := r.chain.layers[first.layer]
	if l.h.Compression != qcow2.CompressionZstd {
		return packedRun{}, fmt.Errorf("compression type %d is not zstd", l.h.Compression)
	}
	parts := []qcow2.Range{l.h.DataOf(first.entry)}
	start, end := parts[0].Offset/pageSize*pageSize, parts[0].End()
	for len(parts) < len(offsets) {
		next, err := r.cell(offsets[len(parts)])
		if err != nil {
			return packedRun{}, err
		}
		part := l.h.DataOf(next.entry)
		last := parts[len(parts)-1]
		if next.layer != first.layer || !qcow2.IsCompressed(next.entry) ||
			part.Offset < last.Offset || part.Offset > last.End() || part.End() > start+maxPacked {
			break
		}
		parts, end = append(parts, part), max(end, part.End())
	}
	data, err := r.readFile(l, start, (end-start+pageSize-1)/pageSize*pageSize)
	return packedRun{l, parts, start, data}, err
}

// readPacked reads compressed clusters and unpacks them.
func (r *Reader) readPacked(buf []byte, offsets []int64) (int, error) {
	run, err := r.packedRun(offsets)
	if err != nil {
		return 0, err
	}
	for i, part := range run.parts {
		p := buf[int64(i)*r.chain.cluster : int64(i+1)*r.chain.cluster]
		if err := r.unpack(p, run.packed(i)); err != nil {
			return 0, fmt.Errorf("unpack what is at offset %d of the image: %w", part.Offset, err)
		}
		run.layer.hide(p, offsets[i])
	}
	return len(run.parts), nil
}

// readFile reads a part of a file, less of it where the file ends, into memory of
// the reader.
func (r *Reader) readFile(l layer, offset, length int64) ([]byte, error) {
	if have := int64(len(r.packed)); have < length {
		r.packed = directio.Buffer(int(max(length, 2*have)))
	}
	n, err := l.r.ReadAt(r.packed[:length], offset)
	if err == io.EOF {
		err = nil
	}
	return r.packed[:n], err
}

// unpack fills p from a compressed cluster; what follows it in packed belongs to
// another one.
func (r *Reader) unpack(p, packed []byte) error {
	var err error
	if r.zstd == nil {
		// With one decoder at a time it has no goroutine, so nothing to close.
		if r.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(uint64(4*r.chain.cluster))); err != nil {
			return err
		}
	}
	if err := r.zstd.Reset(bytes.NewReader(packed)); err != nil {
		return err
	}
	_, err = io.ReadFull(r.zstd, p)
	return err
}
