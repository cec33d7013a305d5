package hashlist

import "sync/atomic"

// ProvenRanges remember which ranges of an image were read and are what the hash list
// says, so that a check of the whole image need not read them again
// (CheckOptions.Proven). They take a bit for each range of the image.
type ProvenRanges struct {
	ranges []atomic.Uint64
	// computed: the list on disk is damaged, and another one has proven the
	// ranges. A check reads all then, and says what is damaged.
	computed atomic.Bool
}

func newProvenRanges(l layout) *ProvenRanges {
	return &ProvenRanges{ranges: make([]atomic.Uint64, (l.ranges()+63)/64)}
}

func (p *ProvenRanges) add(index int64) { p.ranges[index/64].Or(1 << (index % 64)) }

// Has tells whether the range of this index was proven. It is false for nil and behind the
// image's end.
func (p *ProvenRanges) Has(index int64) bool {
	return p != nil && !p.computed.Load() && index/64 < int64(len(p.ranges)) && p.ranges[index/64].Load()&(1<<(index%64)) != 0
}
