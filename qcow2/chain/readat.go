package chain

import (
	"errors"
	"io"

	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/qcow2"
)

// ReadAt is that of io.ReaderAt for the disk, at any offset, but for one caller at a time.
// Of a cluster of which a part is wanted, only that is read of the image, unless it is
// compressed: the cluster that was unpacked last is kept.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("read at a negative offset")
	}
	want := len(p)
	p = p[:max(0, min(int64(want), r.Size()-off))]
	for done := 0; done < len(p); {
		n, err := r.readSome(p[done:], off+int64(done))
		if err != nil {
			return done, err
		}
		done += n
	}
	if len(p) < want {
		return len(p), io.EOF
	}
	return want, nil
}

// readSome reads whole clusters, or what p has of the cluster at off. p ends within the disk.
func (r *Reader) readSome(p []byte, off int64) (int, error) {
	cluster := r.chain.cluster
	if n := int64(len(p)) / cluster; off%cluster == 0 && n > 0 {
		r.offsets = r.offsets[:0]
		for i := range n {
			r.offsets = append(r.offsets, off+i*cluster)
		}
		return int(n * cluster), r.Read(p[:n*cluster], r.offsets)
	}
	start := off / cluster * cluster
	p = p[:min(int64(len(p)), start+cluster-off)]
	if start == r.keptAt {
		return copy(p, r.kept[off-start:]), nil
	}
	c, err := r.cell(start)
	switch {
	case err == nil && c.entry == 0:
		clear(p)
		return len(p), nil
	case err == nil && !qcow2.IsCompressed(c.entry) && r.chain.salvage == nil:
		return len(p), r.readPart(c, p, off)
	}
	if err := r.keep(start); err != nil {
		return 0, err
	}
	return copy(p, r.kept[off-start:]), nil
}

// readPart reads a part of a cluster that lies in an image as it is.
func (r *Reader) readPart(c cell, p []byte, off int64) error {
	l := r.chain.layers[c.layer]
	at := l.h.DataOf(c.entry).Offset + off%r.chain.cluster
	if _, err := io.ReadFull(io.NewSectionReader(l.r, at, int64(len(p))), p); err != nil {
		return chainError("read %d bytes at guest offset %d: %w", len(p), off, err)
	}
	l.hide(p, off)
	return nil
}

// keep reads the cluster at an offset into memory of the reader.
func (r *Reader) keep(start int64) error {
	if r.kept == nil {
		r.kept = directio.Buffer(int(r.chain.cluster))
	}
	r.keptAt = -1
	r.offsets = append(r.offsets[:0], start)
	if err := r.Read(r.kept, r.offsets); err != nil {
		return err
	}
	r.keptAt = start
	return nil
}
