package inplace

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/restore/inplace"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

const mib = 1 << 20

// kinds are disks of all kinds that are restored in place: plain, on a backing file, with
// clusters of their own, raw.
func kinds(t *testing.T) *testsite.Site {
	t.Helper()
	s := testsite.New(t, testdomain.New(t,
		testdomain.Disk{Target: "vda", Size: 24 * mib},
		testdomain.Disk{Target: "vdb", Size: 20*mib + 5*512, Backing: "qcow2"},
		testdomain.Disk{Target: "vdc", Size: 16 * mib, ClusterSize: 4096},
		testdomain.Disk{Target: "vdd", Size: 16*mib + 512, Format: "raw"}))
	s.Init()
	s.MayWarn = true
	return s
}

// points makes a chain of three points, and changes all disks after each.
func points(t *testing.T, s *testsite.Site) {
	t.Helper()
	for _, d := range s.Disks {
		s.IO(d.Target, "write -P 0x11 0 8M", "write -P 0x22 12M 1M")
	}
	for round, kind := range []string{"full", "inc", "inc"} {
		s.BackUp(0, kind)
		s.WriteAll(int64(round + 1))
		for _, d := range s.Disks {
			s.IO(d.Target, "discard 12M 256k", "write -P 0x77 0 4k")
		}
	}
}

// restored runs restore --in-place without a point of the present state, and returns its result.
func restored(t *testing.T, s *testsite.Site, point string, args ...string) inplace.Result {
	t.Helper()
	args = append([]string{"--json", "restore", s.Name + "@" + point, "--in-place", "--yes"}, args...)
	r := s.Program.Must(t, []int{0, 3}, args...)
	return resultOf(t, r)
}

func resultOf(t *testing.T, r testdomain.Result) (result inplace.Result) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.Stdout), &result); err != nil {
		t.Fatalf("%v\n%s", err, r.Stdout)
	}
	return result
}

// wantPoint checks that the disks hold what a point shows; the domain is off. The judge is
// qemu-img.
func wantPoint(t *testing.T, s *testsite.Site, p testsite.Point, targets ...string) {
	t.Helper()
	for _, d := range s.Disks {
		truth, ok := p.Truth[d.Target]
		if !ok || len(targets) > 0 && !contains(targets, d.Target) {
			continue
		}
		testdomain.Same(t, d.Source, d.Format, truth)
		if d.Format == "qcow2" {
			testdomain.CheckImage(t, d.Source)
		}
	}
}

func contains(all []string, one string) bool {
	for _, s := range all {
		if s == one {
			return true
		}
	}
	return false
}

func pointOf(t *testing.T, s *testsite.Site, id string) testsite.Point {
	t.Helper()
	for _, p := range s.Points {
		if p.ID == id {
			return p
		}
	}
	t.Fatalf("no point %s", id)
	return testsite.Point{}
}

func diskOf(t *testing.T, r inplace.Result, target string) inplace.Disk {
	t.Helper()
	for _, d := range r.Disks {
		if d.Target == target {
			return d
		}
	}
	t.Fatalf("the result has no disk %s", target)
	return inplace.Disk{}
}

// digests are those of all files in a directory tree, but for locks.
func digests(t *testing.T, dirs ...string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() || e.Name() == "lock" || e.Name() == "readers" {
				return err
			}
			data, err := os.ReadFile(path)
			all[path] = digest.Of(data)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}
