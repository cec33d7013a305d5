package nbdcopy

import (
	"context"

	"github.com/virtbackup/virtbackup/internal/bitset"
)

// only limits the extents to the clusters of a set: it takes the place of a dirty bitmap.
func (x *extents) only(set *bitset.Set) {
	x.dirty = &cursor{name: "the chosen clusters", status: chosen(set, x.cluster), size: x.size, window: bitmapWindow, flag: stateDirty}
	x.dirtyFrom = 0
}

// chosen answers as block status of a dirty bitmap would that has the clusters of a set: with the
// first run of equal dirtiness.
func chosen(set *bitset.Set, cluster int64) statusFunc {
	return func(_ context.Context, offset, length int64) ([]entry, error) {
		first, end := offset/cluster, (offset+length+cluster-1)/cluster
		k, dirty := first, set.Has(first)
		for k < end && set.Has(k) {
			k++
		}
		if !dirty {
			if k = set.Next(first); k < 0 {
				k = end
			}
		}
		run := entry{min(k*cluster-offset, length), 0}
		if dirty {
			run.flags = stateDirty
		}
		return []entry{run}, nil
	}
}
