package testsite

import (
	"slices"
	"strings"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// WantCheckpoints checks which checkpoints libvirt lists, in any order.
func (s *Site) WantCheckpoints(want ...string) {
	s.T.Helper()
	got := s.Labels()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		s.T.Errorf("checkpoints %q, want %q", got, want)
	}
}

// Labels names the domain's checkpoints: those of points by the name of the point.
func (s *Site) Labels() []string {
	s.T.Helper()
	var labels []string
	for _, name := range s.Checkpoints() {
		if point, _, ok := manifest.ParseCheckpointName(name); ok {
			name = point
		}
		labels = append(labels, name)
	}
	return labels
}

// Checkpoint is what libvirt calls the checkpoint of a point, and QEMU its bitmaps.
func (s *Site) Checkpoint(point string) string {
	s.T.Helper()
	for _, p := range s.Points {
		if p.ID == point {
			return p.Checkpoint
		}
	}
	s.T.Fatalf("there is no point %s", point)
	return ""
}

// WantBitmap checks whether the images of all disks have a bitmap.
func (s *Site) WantBitmap(want bool, name string) {
	s.T.Helper()
	for _, d := range s.Disks {
		info := testdomain.Tool(s.T, "qemu-img", "info", "-U", d.Source)
		if got := strings.Contains(info, "name: "+name+"\n"); got != want {
			s.T.Errorf("%s has bitmap %s: %v, want %v\n%s", d.Target, name, got, want, info)
		}
	}
}

// RepositoryID is the repository's id, which is in the description of its checkpoints.
func (s *Site) RepositoryID() string {
	s.T.Helper()
	r, err := repository.Open(s.Repo)
	if err != nil {
		s.T.Fatal(err)
	}
	return r.ID()
}
