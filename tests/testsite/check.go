package testsite

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// Check compares every disk of every point with its truth: flattened by
// qemu-img alone, and as virtbackup restores it, in both formats by turns.
func (s *Site) Check() {
	s.T.Helper()
	for i, p := range s.Points {
		s.CheckFlattened(p)
		s.CheckRestored(p, []string{"qcow2", "raw"}[i%2])
	}
	if s.HasJob() {
		s.T.Error("a backup job is left")
	}
}

// CheckFlattened compares a point with its truth as qemu-img alone reads its chain.
func (s *Site) CheckFlattened(p Point) {
	s.T.Helper()
	for _, d := range p.Disks {
		image := s.Image(p.Manifest, d.Target)
		testdomain.CheckImage(s.T, image)
		testdomain.Same(s.T, image, "qcow2", p.Truth[d.Target])
	}
}

// CheckRestored compares a point with its truth as virtbackup restores it; format is
// qcow2 or raw.
func (s *Site) CheckRestored(p Point, format string) {
	s.T.Helper()
	dir := s.Restore(p, format)
	for _, d := range p.Disks {
		image := filepath.Join(dir, d.Target+"."+format)
		if format == "raw" {
			SameBytes(s.T, image, p.Truth[d.Target])
			continue
		}
		testdomain.CheckImage(s.T, image)
		testdomain.Same(s.T, image, format, p.Truth[d.Target])
		if testdomain.HeaderOf(s.T, image).BackingFileOffset != 0 {
			s.T.Errorf("the restored image %s does not stand alone", image)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		s.T.Fatal(err)
	}
}

// Restore restores a point to a new directory, which it returns.
func (s *Site) Restore(p Point, format string) string {
	s.T.Helper()
	dir := filepath.Join(s.Dir, "restored-"+p.ID)
	s.Program.Must(s.T, nil, "restore", s.Name, "--quiet", "--to", dir, "--at", p.ID, "--format", format)
	return dir
}

// SameBytes ends the test unless two raw images are the same byte for byte, and as long.
func SameBytes(t *testing.T, image, truth string) {
	t.Helper()
	if err := testdomain.Compare(image, truth); err != nil {
		t.Fatal(err)
	}
}

// DiskOf is the entry of a disk in a point, which must have it.
func DiskOf(t *testing.T, m manifest.Manifest, target string) manifest.Disk {
	t.Helper()
	d, ok := m.Disk(target)
	if !ok {
		t.Fatalf("point %s has no disk %s", m.ID, target)
	}
	return d
}
