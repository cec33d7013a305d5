package tests

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// remaining are the ways to lose what is not on stable storage, for one cut.
func remaining(rng *rand.Rand) []remains {
	return []remains{nothing{}, all{}, some{rng}, some{rng}, some{rng}, some{rng}}
}

// What a restore has reported as done outlives a power cut, and whenever the power goes, a
// disk's image that has its name is whole.
func TestPowerLossOfARestore(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 8 << 20}, testdomain.Disk{Target: "vdb", Size: 4<<20 + 512}))
	s.writeAll(1)
	s.backUp(0, "full")
	s.writeAll(2)
	s.backUp(0, "inc")
	for _, format := range []string{"qcow2", "raw"} {
		root := testdomain.TempDir(t)
		to := filepath.Join(root, "restored")
		if err := os.Mkdir(to, 0o700); err != nil {
			t.Fatal(err)
		}
		_, events := s.straced(root, nil, "restore", s.Name, "--to", to, "--format", format)
		for _, target := range []string{"vda", "vdb"} {
			testdomain.Same(t, filepath.Join(to, target+"."+format), format, s.points[1].truth[target])
		}
		whole := load(t, root).cut(nothing{})
		d := &stable{t, root, newDir()}
		d.top.names["restored"] = newDir()
		d.top.now["restored"] = d.top.names["restored"]
		rng := rand.New(rand.NewPCG(seed, 1))
		d.replay(events, "", func() {
			for _, keep := range remaining(rng) {
				for path, data := range d.cut(keep) {
					if image := strings.HasSuffix(path, "."+format); image && string(data) != string(whole[path]) {
						t.Fatalf("%s is torn after a power cut in mid-run", path)
					}
				}
			}
		})
		if err := d.cut(nothing{}).torn(whole, "/restored"); err != nil {
			t.Errorf("%s: after a power cut behind the end of the restore: %v", format, err)
		}
	}
}

// Whenever the power goes while points are removed, each is listed and whole, or not listed,
// and those that are reported as removed do not come back.
func TestPowerLossOfARelease(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 8 << 20}))
	for n, kind := range []string{"full", "inc"} {
		s.writeAll(int64(n + 1))
		s.backUp(0, kind)
	}
	root, domain := filepath.Dir(s.repo), "/repo/"+s.Name
	d := load(t, root)
	whole := d.cut(nothing{})
	_, events := s.straced(root, nil, "release", s.Name, "--points")
	rng := rand.New(rand.NewPCG(seed, 1))
	seen := map[int]bool{} // numbers of points that were listed after a cut
	d.replay(events, "", func() {
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
