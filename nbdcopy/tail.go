//go:build cgo

package nbdcopy

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/virtbackup/virtbackup/qcow2"
)

// TailChanged finds out whether the disk was shrunk and grown again since its
// bitmap began: what that cuts off reads as zeros, and no bitmap has it. old is
// what the disk held then.
//
//	old          |dddd....dddddddd|
//	bitmap       |   x           x|
//	looked at    |              ^ |
//
// One cluster tells: the last one that held data then and is clean. If the disk
// was cut anywhere before the end of it, it has changed, although it is clean.
// If the disk was cut behind it, what that cut off was zeros, or is dirty. The
// offset of the cluster is returned; it costs one look at the bitmap, mostly, and
// one read. Open must have been given the bitmap.
func (e *Export) TailChanged(ctx context.Context, old *qcow2.Chain) (offset int64, changed bool, err error) {
	if e.dirty == nil {
		return 0, false, errors.New("look for a change at the end of the disk: no bitmap")
	}
	for i := old.Windows() - 1; i >= 0; i-- {
		w, err := old.Window(i)
		if err != nil {
			return 0, false, err
		}
		if w == nil || w.Offset >= e.size {
			continue
		}
		clean, err := e.cleanClusters(ctx, w, old)
		if err != nil {
			return 0, false, err
		}
		for k := len(clean) - 1; k >= 0; k-- {
			if clean[k] && w.HasData(k) {
				changed, err := e.differs(ctx, old, w.At(k))
				return w.At(k), changed, err
			}
		}
	}
	return 0, false, nil
}

// cleanClusters tells which clusters of a window no bit of the bitmap touches.
func (e *Export) cleanClusters(ctx context.Context, w *qcow2.Window, old *qcow2.Chain) ([]bool, error) {
	end := min(w.At(w.Len()), old.Size(), e.size)
	c := &cursor{name: e.dirty.name, status: e.dirty.status(e.bitmapContext()), size: end, window: bitmapWindow, flag: stateDirty,
		known: w.Offset, look: end - w.Offset}
	clean := make([]bool, (end-w.Offset+old.ClusterSize()-1)/old.ClusterSize())
	for i := range clean {
		clean[i] = true
	}
	for pos := w.Offset; pos < end; {
		stop, dirty, err := c.run(ctx, pos, end)
		if err != nil {
			return nil, err
		}
		if dirty {
			for k := (pos - w.Offset) / old.ClusterSize(); w.At(int(k)) < stop; k++ {
				clean[k] = false
			}
		}
		pos = stop
	}
	return clean, nil
}

// differs reads a cluster of the disk and compares it with what it was, as far as
// the disk reached then: what it has grown by counts as dirty anyway.
func (e *Export) differs(ctx context.Context, old *qcow2.Chain, offset int64) (bool, error) {
	want := make([]byte, old.ClusterSize())
	if err := old.NewReader().Read(want, []int64{offset}); err != nil {
		return false, err
	}
	n := min(int64(len(want)), min(old.Size(), e.size)-offset)
	conn, err := dial(ctx, e.source.Socket, e.source.Export, "")
	if err != nil {
		return false, err
	}
	defer conn.close()
	pool, err := newPool(1, len(want))
	if err != nil {
		return false, err
	}
	b := &batch{buf: <-pool.free}
	b.append(offset, n, 0)
	b.pending = len(b.requests)
	if err := conn.readBatch(ctx, b); err != nil {
		// A reply may still come; the memory stays until the process ends.
		return false, fmt.Errorf("look for a change at the end of the disk: %w", err)
	}
	same := bytes.Equal(b.buf[:n], want[:n])
	return !same, pool.release()
}
