package nbdcopy

import (
	"context"
	"io"

	"github.com/virtbackup/virtbackup/extent"
)

const (
	// allocationWindow: one L2 table of QEMU's default cluster size covers
	// 512 MiB, so a longer look would cost QEMU another one.
	allocationWindow = 512 << 20
	// bitmapWindow: counts of a plain block status are below 4 GiB.
	bitmapWindow = 2 << 30
)

// extents yields what a backup does with each part of a disk, front to back:
// the dirty bitmap crossed with the allocation.
//
//	dirty       |..........DDDDDDDDDDDDDDD........|   nil: all of it (a full)
//	allocation  |ddddzzzzzzzzzzzzzdddddzzzzzzddddd|   nil: all of it is data
//	clusters    |    |    |    |    |    |    |   |
//	extents     |clean    |zero|data     |clean   |
//
// Every extent starts and ends at a cluster boundary or at the end of the disk:
// a cluster is clean if no byte of it is dirty, zero if all of it reads as
// zeros, and data otherwise. Reading a whole cluster of which a part is dirty is
// right because the export shows the whole disk at the same instant.
//
// The two contexts come over connections of their own, so that the allocation,
// which costs QEMU a look into the image's tables, is asked for only where the
// disk is dirty: an incremental's cost does not grow with the disk.
type extents struct {
	size    int64 // of the disk, bytes
	cluster int64 // bytes
	dirty   *cursor
	alloc   *cursor
	// Bytes from here on count as dirty whatever the bitmap says, because a
	// bitmap does not mark what a disk has grown by. 0 is no such bound.
	dirtyFrom int64

	pos   int64 // all before it has been yielded
	inEnd int64 // end of the dirty range that pos is in
}

// next returns the next extent, or io.EOF behind the last. Neighbours may have
// the same status.
func (x *extents) next(ctx context.Context) (extent.Extent, error) {
	if x.pos >= x.size {
		return extent.Extent{}, io.EOF
	}
	if x.pos < x.inEnd {
		return x.classify(ctx)
	}
	end, dirty, err := x.dirtyRun(ctx)
	if err != nil {
		return extent.Extent{}, err
	}
	if dirty {
		x.inEnd = x.alignUp(end)
		return x.classify(ctx)
	}
	if end = x.alignDown(end); end > x.pos {
		return x.yield(end, extent.Clean), nil
	}
	// The cluster starts clean, and a later part of it is dirty.
	x.inEnd = x.alignUp(x.pos + 1)
	return x.classify(ctx)
}

// dirtyRun is the run of equal dirtiness at pos, which is at a cluster boundary.
func (x *extents) dirtyRun(ctx context.Context) (end int64, dirty bool, err error) {
	if x.dirty == nil {
		return x.size, true, nil
	}
	limit := x.size
	if x.dirtyFrom > 0 {
		if x.pos >= x.dirtyFrom {
			return x.size, true, nil
		}
		limit = min(limit, x.dirtyFrom)
	}
	return x.dirty.run(ctx, x.pos, limit)
}

// classify yields the next extent of a dirty range: data or zero.
func (x *extents) classify(ctx context.Context) (extent.Extent, error) {
	if x.alloc == nil {
		return x.yield(min(x.inEnd, x.pos+allocationWindow), extent.Data), nil
	}
	// No further than the reply at hand: copying starts before the whole disk
	// has been asked for.
	limit := min(x.inEnd, x.alloc.windowEnd(x.pos))
	end, zero, err := x.alloc.run(ctx, x.pos, limit)
	if err != nil {
		return extent.Extent{}, err
	}
	if !zero {
		return x.yield(min(x.alignUp(end), x.inEnd), extent.Data), nil
	}
	if end = x.alignDown(end); end > x.pos {
		return x.yield(end, extent.Zero), nil
	}
	// The cluster starts with zeros, and a later part of it is data.
	return x.yield(x.alignUp(x.pos+1), extent.Data), nil
}

func (x *extents) yield(end int64, s extent.Status) extent.Extent {
	e := extent.Extent{Offset: x.pos, Length: end - x.pos, Status: s}
	x.pos = end
	return e
}

// alignUp rounds up to a cluster boundary, alignDown rounds down; the end of the
// disk is one, too.
func (x *extents) alignUp(off int64) int64 {
	return min((off+x.cluster-1)/x.cluster*x.cluster, x.size)
}

func (x *extents) alignDown(off int64) int64 {
	if off == x.size {
		return off
	}
	return off / x.cluster * x.cluster
}
