package hashlist

import (
	"iter"
	"math/bits"
)

// RangeSet are ranges of an image, a bit for each. The zero value is empty.
type RangeSet struct {
	words []uint64
	count int64
}

// Add adds the range of this index. Adding it again does nothing.
func (s *RangeSet) Add(index int64) {
	for int64(len(s.words)) <= index/64 {
		s.words = append(s.words, make([]uint64, max(64, len(s.words)))...)
	}
	if bit := uint64(1) << (index % 64); s.words[index/64]&bit == 0 {
		s.words[index/64] |= bit
		s.count++
	}
}

// Remove takes the range of this index out.
func (s *RangeSet) Remove(index int64) {
	if s.Has(index) {
		s.words[index/64] &^= 1 << (index % 64)
		s.count--
	}
}

// Has tells whether the range of this index is in the set.
func (s *RangeSet) Has(index int64) bool {
	return index/64 < int64(len(s.words)) && s.words[index/64]&(1<<(index%64)) != 0
}

// Len is the number of ranges.
func (s *RangeSet) Len() int64 { return s.count }

// Next is the first index from this one on that is in the set, -1 if there is none.
func (s *RangeSet) Next(index int64) int64 {
	for i := index / 64; i < int64(len(s.words)); i++ {
		w := s.words[i]
		if i == index/64 {
			w &= ^uint64(0) << (index % 64)
		}
		if w != 0 {
			return i*64 + int64(bits.TrailingZeros64(w))
		}
	}
	return -1
}

// Runs are the first and the number of the ranges that follow each other, at most so many
// at once, in ascending order.
func (s *RangeSet) Runs(most int64) iter.Seq2[int64, int64] {
	return func(yield func(first, n int64) bool) {
		for first := s.Next(0); first >= 0; {
			n := int64(1)
			for n < most && s.Has(first+n) {
				n++
			}
			if !yield(first, n) {
				return
			}
			first = s.Next(first + n)
		}
	}
}
