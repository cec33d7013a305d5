package plan

import (
	"testing"
)

func TestNeed(t *testing.T) {
	const mib, gib, tib = 1 << 20, 1 << 30, 1 << 40
	for name, c := range map[string]struct {
		disks     []Disk
		low, high int64
	}{
		"nothing":             {nil, 0, 0},
		"empty disk":          {[]Disk{{Size: 10 * gib}}, 256 << 10, 257 << 10},
		"small change of 1 T": {[]Disk{{Size: tib, Expected: 64 << 10, Incremental: true}}, 64 << 10, mib},
		"full of 10 G":        {[]Disk{{Size: 10 * gib, Expected: 10 * gib}}, 10*gib + 5*mib, 10*gib + 8*mib},
		"full of 1 T":         {[]Disk{{Size: tib, Expected: tib}}, tib + 640*mib, tib + 768*mib},
		"unknown":             {[]Disk{{Size: tib, Expected: -1, Incremental: true}}, 0, 0},
		"one unknown of two":  {[]Disk{{Size: tib, Expected: -1}, {Size: gib, Expected: gib}}, gib, gib + mib},
	} {
		p := Plan{Disks: c.disks}
		if got := p.Need(Disk.Estimate); got < c.low || got > c.high {
			t.Errorf("%s: %d, want %d to %d", name, got, c.low, c.high)
		}
	}
}

// A point of data without holes takes at least its data, an L2 entry of 8 bytes and a
// refcount of 2 bytes for each cluster, a hash of 32 bytes for each, and one for each 64
// KiB of hashes. The estimate is that much, and little more.
func TestTakesCountsHashes(t *testing.T) {
	const gib = 1 << 30
	for _, size := range []int64{10 * gib, 1024 * gib} {
		clusters := size / ImageCluster
		hashes := 32 * clusters
		least := size + (8+2)*clusters + hashes + hashes/ImageCluster*32
		if got := (Disk{Size: size}).Takes(size); got < least || got > least+1<<20 {
			t.Errorf("%d GiB: %d bytes, want %d and little more", size/gib, got, least)
		}
	}
}
