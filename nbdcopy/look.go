//go:build cgo

package nbdcopy

import (
	"context"
	"errors"
)

// CleanClusters tells which clusters of cluster bytes between two offsets no bit
// of the bitmap touches. start is at a cluster boundary, end is at one or at the
// end of the disk. Open must have been given the bitmap.
func (e *Export) CleanClusters(ctx context.Context, start, end, cluster int64) ([]bool, error) {
	if e.dirty == nil {
		return nil, errors.New("look for clean clusters: no bitmap")
	}
	c := &cursor{name: e.dirty.name, status: e.dirty.status(e.bitmapContext()), size: end, window: bitmapWindow, flag: stateDirty,
		known: start, look: end - start}
	clean := make([]bool, (end-start+cluster-1)/cluster)
	for i := range clean {
		clean[i] = true
	}
	for pos := start; pos < end; {
		stop, dirty, err := c.run(ctx, pos, end)
		if err != nil {
			return nil, err
		}
		if dirty {
			for k := (pos - start) / cluster; start+k*cluster < stop; k++ {
				clean[k] = false
			}
		}
		pos = stop
	}
	return clean, nil
}

// ReadAt fills p with what the disk holds from offset on, all of it within the
// disk. It reads over a connection of its own.
func (e *Export) ReadAt(ctx context.Context, p []byte, offset int64) error {
	conn, err := dial(ctx, e.source.Socket, e.source.Export, "")
	if err != nil {
		return err
	}
	defer conn.close()
	pool, err := newPool(1, len(p))
	if err != nil {
		return err
	}
	b := &batch{buf: <-pool.free}
	b.append(offset, int64(len(p)), 0)
	b.pending = len(b.requests)
	if err := conn.readBatch(ctx, b); err != nil {
		// A reply may still come; the memory stays until the process ends.
		return err
	}
	copy(p, b.buf)
	return pool.release()
}
