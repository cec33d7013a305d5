package faults

import (
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// remaining are the ways in which one cut loses what is not on stable storage.
func remaining(rng *rand.Rand) []remains {
	return []remains{nothing{}, all{}, some{rng}, some{rng}, some{rng}, some{rng}}
}

// After a power cut at any instant of a release, each point is listed and whole, or not
// listed, and points that are reported as removed do not come back.
func TestPowerLossOfARelease(t *testing.T) {
	t.Parallel()
	seed := testsite.NewSeed(t)
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 8 << 20}))
	for n, kind := range []string{"full", "inc"} {
		s.WriteAll(int64(n + 1))
		s.BackUp(0, kind)
	}
	root, domain := filepath.Dir(s.Repo), "/repo/"+s.Name
	d := load(t, root)
	whole := d.cut(nothing{})
	_, events := straced(s, root, nil, "release", s.Name, "--points")
	rng := rand.New(rand.NewPCG(seed, 1))
	seen := map[int]bool{} // numbers of points that were listed after a cut
	d.replay(events, nil, func() {
		for _, keep := range remaining(rng) {
			m := d.cut(keep)
			listed := m.points(domain)
			seen[len(listed)] = true
			for _, p := range listed {
				if err := m.torn(whole, domain+"/"+p); err != nil {
					t.Fatalf("%s is listed after a power cut: %v", p, err)
				}
			}
		}
	})
	if left := d.cut(nothing{}).points(domain); len(left) > 0 || len(seen) != 3 {
		t.Errorf("%v are listed after a power cut behind the end; in between %v", left, seen)
	}
}
