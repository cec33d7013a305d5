package chain

import (
	"encoding/binary"
	"fmt"

	"github.com/virtbackup/virtbackup/qcow2"
)

// State is what the images of a chain say of a cluster.
type State uint8

const (
	// Absent: no image says anything. In a chain that begins with its base the
	// cluster reads as zeros; in the upper part of one it reads as what is below.
	Absent State = iota
	// Zero: the cluster reads as zeros and hides what is below: it is a zero
	// cluster, or lies behind the end of an image.
	Zero
	// Data: an image holds the cluster.
	Data
)

// Window is the part of a disk that one L2 table describes.
type Window struct {
	Offset int64 // on the disk, bytes
	chain  *Chain
	cells  []cell // of the clusters before the end of the disk; nil: all are Zero
	length int
}

// cell is where a cluster's content stands.
type cell struct {
	entry uint64 // of the L2 table; 0 where the cluster reads as zeros
	layer int32  // that says it, if one does
	found bool   // some layer says something of it
}

// Window looks up window i; nil if all of its clusters are Absent. Callers share
// it.
func (c *Chain) Window(i int64) (*Window, error) {
	return c.windows.get(i, func() (*Window, error) { return c.lookUp(i) })
}

// lookUp asks the layers from the top down. Neither a window that no layer says
// anything of, nor one that is behind the end of a layer as a whole, takes memory.
func (c *Chain) lookUp(i int64) (*Window, error) {
	w := &Window{Offset: i * c.WindowSize(), chain: c}
	end := min(w.Offset+c.WindowSize(), c.Size())
	w.length = int((end - w.Offset + c.cluster - 1) / c.cluster)
	var buf []byte
	for n, l := range c.layers {
		if w.cells == nil && l.visible <= w.Offset {
			return w, nil
		}
		table, err := l.table(i, &buf)
		if c.isLost(err) {
			w.lose(l.visible, err)
			break
		}
		if err != nil {
			return nil, err
		}
		if table == nil && l.visible >= end {
			continue
		}
		if w.cells == nil {
			w.cells = make([]cell, w.length)
		}
		if open := w.fill(n, l.visible, table); open == 0 {
			break
		}
	}
	if w.cells == nil {
		return nil, nil
	}
	return w, nil
}

// fill enters what one layer says of clusters that those above leave open. It
// returns how many are open still.
func (w *Window) fill(layer int, visible int64, table []byte) (open int) {
	for k := range w.cells {
		cell := &w.cells[k]
		switch {
		case cell.found:
		case w.At(k) >= visible: // this layer ends there, and hides those below it
			cell.layer, cell.found = int32(layer), true
		case table != nil:
			entry := binary.BigEndian.Uint64(table[k*8:])
			switch {
			case qcow2.HasData(entry):
				cell.layer, cell.entry, cell.found = int32(layer), entry, true
			case qcow2.IsZero(entry):
				cell.layer, cell.found = int32(layer), true
			}
		}
		if !cell.found {
			open++
		}
	}
	return open
}

// Len is the number of clusters; the last one may reach behind the end of the
// disk.
func (w *Window) Len() int { return w.length }

// At is the offset of cluster k on the disk, in bytes.
func (w *Window) At(k int) int64 { return w.Offset + int64(k)*w.chain.cluster }

// State is what the chain says of cluster k.
func (w *Window) State(k int) State {
	switch {
	case w.cells == nil:
		return Zero
	case w.cells[k].entry != 0:
		return Data
	case w.cells[k].found:
		return Zero
	}
	return Absent
}

// Run is the state of cluster k, and the end of the run of clusters from k on that
// have it.
func (w *Window) Run(k int) (end int, s State) {
	s = w.State(k)
	if w.cells == nil {
		return w.length, s
	}
	for end = k + 1; end < w.length && w.State(end) == s; end++ {
	}
	return end, s
}

// Cell is which image has the data of cluster k, 0 for the top one, and the L2 entry
// that it has there: the image's Header tells where that lies. Only if its state is Data;
// otherwise the entry is 0.
func (w *Window) Cell(k int) (layer int, entry uint64) {
	if w.cells == nil {
		return 0, 0
	}
	return int(w.cells[k].layer), w.cells[k].entry
}

// InTop tells whether the top image itself says what cluster k is, data or zeros.
func (w *Window) InTop(k int) bool {
	return w.cells != nil && w.cells[k].found && w.cells[k].layer == 0
}

// Compressed tells whether cluster k is data and compressed.
func (w *Window) Compressed(k int) bool {
	_, entry := w.Cell(k)
	return qcow2.IsCompressed(entry)
}

// HostOffset is where the data of cluster k begins in its image file, in bytes.
// Its state is Data.
func (w *Window) HostOffset(k int) int64 {
	cell := w.cells[k]
	return w.chain.layers[cell.layer].h.DataOf(cell.entry).Offset
}

// cell is where the content of the cluster at an offset of the disk stands. The
// window may be nil.
func (w *Window) cell(offset int64) cell {
	if w == nil || w.cells == nil {
		return cell{}
	}
	return w.cells[(offset-w.Offset)/w.chain.cluster]
}

// RunAt is what the chain says of the byte at an offset of the disk, and the end of the run
// that it is in, in bytes: as far as one window tells.
func (c *Chain) RunAt(off int64) (end int64, s State, err error) {
	if off < 0 || off >= c.Size() {
		return 0, Absent, fmt.Errorf("look at offset %d of a disk of %d bytes", off, c.Size())
	}
	i := off / c.WindowSize()
	w, err := c.Window(i)
	switch {
	case err != nil:
		return 0, Absent, err
	case w == nil:
		return min((i+1)*c.WindowSize(), c.Size()), Absent, nil
	}
	k, s := w.Run(int((off - w.Offset) / c.cluster))
	return min(w.At(k), c.Size()), s, nil
}
