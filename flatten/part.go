package flatten

import (
	"context"

	"github.com/virtbackup/virtbackup/extent"
	"github.com/virtbackup/virtbackup/internal/bitset"
	"github.com/virtbackup/virtbackup/qcow2/chain"
)

// CopyPart copies as Copy does, but only the clusters that are in a set, by their indices,
// and the chain begins with its base: what no image says anything of is zeros as well, and
// the sink is told so.
//
//	chain   |aaaa|    |zero|cccc|    |
//	set     |  x |  x |  x |    |    |
//	sink    |aaaa|zero|zero|    |    |
//
// Numbers behind the end of the disk are ignored. What the set does not have is not read.
func CopyPart(ctx context.Context, images *chain.Chain, set *bitset.Set, sink extent.Sink, copied func(bytes int64)) error {
	c := &copier{chain: images, sink: sink, copied: copied, only: set}
	return c.copy(ctx)
}

// planPart plans the clusters of the set in one window; w is nil if no image says anything of
// any of them.
func (c *copier) planPart(ctx context.Context, i int64, w *chain.Window) error {
	cluster := c.chain.ClusterSize()
	first := i * c.chain.WindowSize() / cluster
	end := min(first+c.chain.WindowSize()/cluster, (c.chain.Size()+cluster-1)/cluster)
	for at := c.only.Next(first); at >= 0 && at < end; at = c.only.Next(at) {
		start, data := at, isData(w, at-first)
		for at < end && c.only.Has(at) && isData(w, at-first) == data {
			if data {
				if err := c.add(ctx, w, int(at-first)); err != nil {
					return err
				}
			}
			at++
		}
		if !data {
			if err := c.zero(start*cluster, min(at*cluster, c.chain.Size())); err != nil {
				return err
			}
		}
	}
	return nil
}

func isData(w *chain.Window, k int64) bool { return w != nil && w.State(int(k)) == chain.Data }
