package restore

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
)

// BenchmarkScattered restores a disk of 1 GiB from chains in which each cluster of
// the base lies apart from its neighbours, and increments have taken every 50th.
func BenchmarkScattered(b *testing.B) {
	for _, links := range []int{1, 30} {
		b.Run(fmt.Sprint(links), func(b *testing.B) {
			const clusters = 8 << 10
			repo, _ := chainOf(b, links, clusters*cluster, func(link int) (offsets []int64) {
				for i := range int64(clusters) {
					if at := i * 5003 % clusters; link == 0 || at%50 == int64(link) {
						offsets = append(offsets, at*cluster)
					}
				}
				return offsets
			})
			b.SetBytes(clusters * cluster)
			for i := range b.N {
				dir := filepath.Join(b.TempDir(), fmt.Sprint(i))
				if _, err := Run(context.Background(), repo, Request{Domain: "vm1", Dir: dir}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
