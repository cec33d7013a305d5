// Package bitset has sets of small numbers, such as indices of the clusters of a file.
package bitset

import (
	"iter"
	"math/bits"
)

// Set is a set of numbers from 0 on, a bit for each. The zero value is empty.
type Set struct {
	words []uint64
	count int64
}

// Add adds a number. Adding it again does nothing.
func (s *Set) Add(i int64) {
	for int64(len(s.words)) <= i/64 {
		s.words = append(s.words, make([]uint64, max(64, len(s.words)))...)
	}
	if bit := uint64(1) << (i % 64); s.words[i/64]&bit == 0 {
		s.words[i/64] |= bit
		s.count++
	}
}

// Remove takes a number out.
func (s *Set) Remove(i int64) {
	if s.Has(i) {
		s.words[i/64] &^= 1 << (i % 64)
		s.count--
	}
}

// Has tells whether a number is in the set.
func (s *Set) Has(i int64) bool {
	return i/64 < int64(len(s.words)) && s.words[i/64]&(1<<(i%64)) != 0
}

// Len is how many numbers the set has.
func (s *Set) Len() int64 { return s.count }

// Next is the first number from this one on that is in the set, -1 if there is none.
func (s *Set) Next(i int64) int64 {
	for k := i / 64; k < int64(len(s.words)); k++ {
		w := s.words[k]
		if k == i/64 {
			w &= ^uint64(0) << (i % 64)
		}
		if w != 0 {
			return k*64 + int64(bits.TrailingZeros64(w))
		}
	}
	return -1
}

// Runs are the runs of numbers that follow each other, in ascending order: the first and how
// many there are, no more than most.
func (s *Set) Runs(most int64) iter.Seq2[int64, int64] {
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
