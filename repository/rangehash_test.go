package repository

import (
	"testing"

	"github.com/zeebo/blake3"
)

// The judge is another implementation of BLAKE3.
func TestHashRange(t *testing.T) {
	data := pageAligned(RangeLength, 11)
	for _, n := range []int{RangeLength, RangeLength - 4096, 65536, 4096, 512} {
		if got, want := hashRange(data[:n]), blake3.Sum256(data[:n]); got != want {
			t.Errorf("%d bytes: %x, want %x", n, got, want)
		}
	}
}

func BenchmarkHashRange(b *testing.B) {
	data := pageAligned(RangeLength, 11)
	b.SetBytes(RangeLength)
	for b.Loop() {
		hashRange(data)
	}
}
