package chain

import (
	"io"

	"github.com/virtbackup/virtbackup/qcow2"
)

// Salvage says what is done where images of a chain cannot be read. Without it that is an
// error. With it the parts of the disk whose content is unknown then read as zeros: data that
// cannot be read, and all that an image may say, or those below it, behind a table that cannot be
// read. What an image below says is not shown there: it may be older than the point.
type Salvage struct {
	// Lost tells which errors, of an image's ReadAt or its Missing, say that something is
	// lost. Others are returned.
	Lost func(err error) bool
	// Report is called with each part of the disk that is lost, in bytes, and why; with some
	// parts repeatedly, and from several goroutines.
	Report func(offset, length int64, why error)
}

// Image is one of a chain that may be damaged.
type Image struct {
	io.ReaderAt
	Missing     error // why there is no ReaderAt; nil: there is one
	VirtualSize int64 // of the disk as the image shows it, in bytes; negative if it is unknown
}

// usualCluster is the size of clusters if no image tells, in bytes.
const usualCluster = 64 << 10

// OpenSalvaging opens as much of a chain as can be read, base first. The size of the top image
// is known. Otherwise it is as Open.
func OpenSalvaging(images []Image, s Salvage) (*Chain, error) {
	if len(images) == 0 {
		return nil, chainError("a chain without images")
	}
	c := &Chain{salvage: &s}
	layers, err := openLayers(len(images), func(i int) (layer, error) { return images[len(images)-1-i].open(&s) })
	if err != nil {
		return nil, err
	}
	cluster, size := usualCluster, images[len(images)-1].VirtualSize
	for _, l := range layers {
		if l.err == nil && l.lost == nil {
			cluster = l.h.ClusterSize
		}
	}
	for i, l := range layers {
		if l.lost != nil {
			if l.h.VirtualSize >= 0 {
				size = l.h.VirtualSize
			}
			l.h, l.visible = qcow2.Header{VirtualSize: size, ClusterSize: cluster}, size
		}
		if l.err == nil {
			l.err = c.add(l.layer)
		}
		if l.err != nil {
			return nil, chainError("image %d of %d of a chain: %w", len(images)-i, len(images), l.err)
		}
	}
	return c, nil
}

// open opens an image, which may be lost.
func (image Image) open(s *Salvage) (layer, error) {
	err := image.Missing
	if err == nil {
		var l layer
		if l, err = openLayer(file{image}); err == nil {
			return l, nil
		}
	}
	if !s.Lost(err) {
		return layer{}, err
	}
	return layer{lost: err, h: qcow2.Header{VirtualSize: image.VirtualSize}}, nil
}

// isLost tells whether an error says that something is lost that may be.
func (c *Chain) isLost(err error) bool {
	return err != nil && c.salvage != nil && c.salvage.Lost(err)
}

// lose makes zeros of all clusters that no image so far says anything of, and that the image
// may show for which err was returned.
func (w *Window) lose(visible int64, err error) {
	c := w.chain
	if w.cells == nil {
		w.cells = make([]cell, w.length)
	}
	for k := 0; k < w.length; k++ {
		from := k
		for ; k < w.length && !w.cells[k].found && w.At(k) < visible; k++ {
			w.cells[k].found = true
		}
		if end := min(w.At(k), visible, c.Size()); from < k {
			c.salvage.Report(w.At(from), end-w.At(from), err)
		}
		if k < w.length {
			w.cells[k].found = w.cells[k].found || w.At(k) >= visible
		}
	}
}

// salvage reads clusters one by one, and makes zeros of those that are lost.
func (r *Reader) salvage(buf []byte, offsets []int64) error {
	cluster := r.chain.cluster
	for i, offset := range offsets {
		p := buf[int64(i)*cluster : int64(i+1)*cluster]
		_, err := r.readRun(p, offsets[i:i+1])
		if r.chain.isLost(err) {
			clear(p)
			r.chain.salvage.Report(offset, min(cluster, r.chain.Size()-offset), err)
			err = nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}
