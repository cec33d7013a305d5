package bench

import (
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// slow is the place of disks that lie on a device of the model.
const slow place = "slow"

// Two disks of one domain, on slow devices: a disk with an arm (7200 turns a
// minute: 8 ms to move, 4 ms for half a turn), or a link without one, as to a
// SAN. Both are slower than the target, so that the source is what is
// measured.
const (
	slowRate = 200 * mib // bytes a second
	slowSeek = 12 * time.Millisecond
)

var (
	pairWays = []way{
		{"side-by-side", (*stage).sideBySide},
		{"one-by-one", (*stage).oneByOne},
	}
	pairs = []scenario{
		{"one-arm", "two disks of 192 MiB on one device of 200 MiB/s that seeks for 12 ms", []place{slow}, twoDisks(1, slowSeek), pairWays},
		{"one-link", "the same without seeks", []place{slow}, twoDisks(1, 0), pairWays},
		{"two-arms", "two disks of 192 MiB, each on such a device of its own", []place{slow}, twoDisks(2, slowSeek), pairWays},
	}
)

// twoDisks makes the stage of two raw disks, vda and vdb, on one device or two.
// There is a third one, vdc, with nothing in it.
func twoDisks(devices int, seek time.Duration) func(*testing.T, settings, place) *stage {
	return func(t *testing.T, s settings, p place) *stage {
		t.Helper()
		size := 192 * mib / s.shrink
		dir := testdomain.TempDir(t)
		content := make([]byte, 5*mib+4096)
		_, _ = io.ReadFull(random(), content)
		st := &stage{settings: s, t: t, place: p, size: size, data: 2 * size, qemu: dir, targets: testdomain.TempDir(t)}
		for range devices {
			st.devices = append(st.devices, newDevice(t, slowRate, seek))
		}
		var disks []string
		for i, target := range []string{"vda", "vdb"} {
			e := &export{st.devices[i%devices], int64(i) * gib, size, content}
			disks = append(disks, fmt.Sprintf(`<disk type='network' device='disk'><driver name='qemu' type='raw'/>`+
				`<source protocol='nbd' name='%s'><host transport='unix' socket='%s'/></source><target dev='%s' bus='virtio'/></disk>`,
				target, e.serve(t, dir, target), target))
		}
		st.Domain = testdomain.Define(t, testdomain.Disk{Target: "vdc", Size: mib})
		for _, xml := range disks {
			file := filepath.Join(dir, "disk.xml")
			if err := os.WriteFile(file, []byte(xml), 0o600); err != nil {
				t.Fatal(err)
			}
			testdomain.Virsh(t, "attach-device", st.Name, file, "--config")
		}
		st.Start()
		return st
	}
}

// sideBySide copies both disks in one run.
func (s *stage) sideBySide() contestant {
	return s.compared(contestant{
		before: func(r *turn) { s.newRepo(filepath.Join(r.dir, "repo")) },
		work: func(r *turn) {
			s.virtbackup(r, filepath.Join(r.dir, "repo"), "copy", "--disk", "vda", "--disk", "vdb")
		},
	}, "copy1", "copy1")
}

// oneByOne copies one disk, then the other. What a run takes before and after it
// copies counts twice, so it is subtracted once: side by side must not win by that.
func (s *stage) oneByOne() contestant {
	run := s.emptyRun()
	return s.compared(contestant{
		before: func(r *turn) { s.newRepo(filepath.Join(r.dir, "repo")) },
		work: func(r *turn) {
			for _, target := range []string{"vda", "vdb"} {
				s.virtbackup(r, filepath.Join(r.dir, "repo"), "copy", "--disk", target)
			}
		},
		after: func(r *turn) { r.Wall -= run.Seconds() },
	}, "copy1", "copy2")
}

// emptyRun is how long a run takes that has nothing to copy: the shortest of
// some, because a delayed one would subtract too much.
func (s *stage) emptyRun() time.Duration {
	s.t.Helper()
	shortest := time.Duration(math.MaxInt64)
	for range 5 {
		repo := filepath.Join(s.targets, "empty")
		s.newRepo(repo)
		start := time.Now()
		testdomain.Tool(s.t, testdomain.Binary(s.t), "--repo", repo, "--quiet", "copy", s.Name, "--disk", "vdc")
		shortest = min(shortest, time.Since(start))
		if err := os.RemoveAll(repo); err != nil {
			s.t.Fatal(err)
		}
	}
	s.t.Logf("a run that copies nothing takes %v", shortest)
	return shortest
}

// compared says how often arms have moved, and lets qemu-img compare the images of vda and vdb, in the points named,
// with the disks, once.
func (s *stage) compared(c contestant, points ...string) contestant {
	seen, after := false, c.after
	c.after = func(r *turn) {
		if after != nil {
			after(r)
		}
		for _, d := range s.devices {
			s.t.Logf("%d seeks of %v", d.seeked(), d.seek)
		}
		if seen {
			return
		}
		seen = true
		for i, target := range []string{"vda", "vdb"} {
			image := filepath.Join(r.dir, "repo", s.Name, points[i], target+".qcow2")
			testdomain.Tool(s.t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", image,
				"nbd+unix:///"+target+"?socket="+filepath.Join(s.qemu, target))
		}
		for _, d := range s.devices {
			d.seeked()
		}
	}
	return c
}
