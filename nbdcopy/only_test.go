package nbdcopy

import (
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/virtbackup/virtbackup/extent"
	"github.com/virtbackup/virtbackup/internal/bitset"
)

// Only the chosen clusters are copied: neither one more nor one less, up to the end of the disk.
func TestOnly(t *testing.T) {
	const cluster = 64 << 10
	for round := range uint64(50) {
		r := rand.New(rand.NewPCG(round, 1))
		size := 1 + r.Int64N(3000*cluster)
		clusters := (size + cluster - 1) / cluster
		var chosen bitset.Set
		for k := int64(0); k < clusters; k += 1 + r.Int64N(1+int64(round)*8) {
			chosen.Add(k)
		}
		x := &extents{size: size, cluster: cluster, dirtyFrom: 1}
		x.only(&chosen)
		at := int64(0)
		for {
			e, err := x.next(t.Context())
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil || e.Offset != at || e.Length <= 0 {
				t.Fatalf("round %d: %+v at %d, %v", round, e, at, err)
			}
			for k := e.Offset / cluster; k*cluster < e.End(); k++ {
				if chosen.Has(k) != (e.Status == extent.Data) {
					t.Fatalf("round %d: cluster %d of %+v, chosen %v", round, k, e, chosen.Has(k))
				}
			}
			at = e.End()
		}
		if at != size {
			t.Errorf("round %d: ends at %d of %d", round, at, size)
		}
	}
}
