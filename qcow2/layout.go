package qcow2

import (
	"cmp"
	"slices"
)

// layout places the metadata in the file, before any of it is written: into the
// gaps that partly filled segments leave, then behind the end.
type layout struct {
	clusterSize int64
	gaps        []gap
	end         int64 // of the file, in bytes
}

// gap is a stretch of the file that is allocated but unused, in bytes.
type gap struct{ at, end int64 }

// newLayout starts from the gaps of a file that is allocated up to end.
// Neighbours are joined. The one at the end is no gap, but the end of the file.
func newLayout(clusterSize int, end int64, gaps []gap) *layout {
	l := &layout{clusterSize: int64(clusterSize), end: end}
	slices.SortFunc(gaps, func(a, b gap) int { return cmp.Compare(a.at, b.at) })
	for _, g := range gaps {
		if n := len(l.gaps); n > 0 && l.gaps[n-1].end == g.at {
			l.gaps[n-1].end = g.end
		} else {
			l.gaps = append(l.gaps, g)
		}
	}
	if n := len(l.gaps); n > 0 && l.gaps[n-1].end == end {
		l.end = l.gaps[n-1].at
		l.gaps = l.gaps[:n-1]
	}
	return l
}

// take places n clusters in one piece and returns their offset.
func (l *layout) take(n int64) int64 {
	length := n * l.clusterSize
	for i := range l.gaps {
		if g := &l.gaps[i]; g.end-g.at >= length {
			g.at += length
			return g.at - length
		}
	}
	l.end += length
	return l.end - length
}

// takeRefcounts places as many refcount blocks as it takes to count every
// cluster, their own and the refcount table's included, and the table. Blocks
// that have a home stay there.
func (l *layout) takeRefcounts(home func(number int64) int64) (blocks []int64, table int64) {
	per := perBlock(int(l.clusterSize))
	for n := int64(1); ; {
		try := layout{l.clusterSize, slices.Clone(l.gaps), l.end}
		blocks = blocks[:0]
		for i := range n {
			block := home(i)
			if block == 0 {
				block = try.take(1)
			}
			blocks = append(blocks, block)
		}
		table = try.take(clusters(n*8, int(l.clusterSize)))
		need := clusters(try.end/l.clusterSize, int(per))
		if need <= n {
			*l = try
			return blocks, table
		}
		n = need
	}
}
