package hashlist

import (
	"fmt"
	"testing"

	"github.com/zeebo/blake3"
)

// The judge is another implementation of BLAKE3.
func TestHashRange(t *testing.T) {
	data := pageAligned(FirstRangeLength, 11)
	for _, n := range []int{1 << 20, 1<<20 - 4096, 999_999, 5 * 16384, 65536, 65536 - 512, 32769, 16385, 16384, 4096, 512, 1, 0} {
		if got, want := hashRange(data[:n]), blake3.Sum256(data[:n]); got != want {
			t.Errorf("%d bytes: %x, want %x", n, got, want)
		}
	}
}

func BenchmarkHashRange(b *testing.B) {
	data := pageAligned(FirstRangeLength, 11)
	for _, unit := range []int64{RangeLength, FirstRangeLength} {
		b.Run(fmt.Sprint(unit), func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			sums := make([]byte, 0, SegmentRanges*hashSize)
			for b.Loop() {
				appendHashes(sums, data, unit)
			}
		})
	}
}
