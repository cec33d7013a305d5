package testsite

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/virtbackup/virtbackup/backup"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// Site is a domain, a repository of its own, and the truth of every point: what its disks
// held, as copied by qemu-img.
type Site struct {
	*testdomain.Domain
	T       *testing.T
	Repo    string             // the repository's directory
	Program testdomain.Program // virtbackup on that repository
	Points  []Point
	taken   *int // truths, also of its copies: no name comes twice
	MayWarn bool // runs may also end with 3, a warning
}

// Point is a point and what its disks held at its instant.
type Point struct {
	manifest.Manifest
	Truth map[string]string // raw images, by target
}

// New makes a repository for a domain, in a directory of its own.
func New(t *testing.T, d *testdomain.Domain) *Site {
	t.Helper()
	repo := filepath.Join(testdomain.TempDir(t), "repo")
	s := &Site{Domain: d, T: t, Repo: repo, taken: new(int),
		Program: testdomain.Program{Env: []string{"VIRTBACKUP_REPO=" + repo}}}
	s.Init()
	return s
}

// Init makes the site's repository: a full that makes it on the root file system,
// where test directories mostly are, warns of that.
func (s *Site) Init() {
	s.T.Helper()
	s.Program.Must(s.T, nil, "--quiet", "init")
}

// Truths copies what every disk of the domain holds now. Nothing may write
// between this and the point that it is the truth of.
func (s *Site) Truths() map[string]string {
	s.T.Helper()
	truth := map[string]string{}
	*s.taken++
	for _, disk := range s.Disks {
		if disk.Device == "cdrom" {
			continue
		}
		truth[disk.Target] = filepath.Join(s.Dir, fmt.Sprintf("truth-%d-%s", *s.taken, disk.Target))
		s.Truth(disk.Target, truth[disk.Target])
	}
	return truth
}

// BackUp makes a point of a domain that nobody writes to. It must end with the
// exit status code.
func (s *Site) BackUp(code int, kind string, args ...string) backup.Result {
	s.T.Helper()
	truth := s.Truths()
	r := s.Program.Must(s.T, []int{code}, append([]string{"--json", kind, s.Name}, args...)...)
	return s.Add(r, truth)
}

// Add records the point that a run has made, with its truth.
func (s *Site) Add(run testdomain.Result, truth map[string]string) backup.Result {
	s.T.Helper()
	var result backup.Result
	if err := json.Unmarshal([]byte(run.Stdout), &result); err != nil {
		s.T.Fatalf("the result is no JSON: %v\n%s", err, run.Stdout)
	}
	s.Points = append(s.Points, Point{result.Point, truth})
	return result
}

// Image is that of a disk in a point.
func (s *Site) Image(p manifest.Manifest, target string) string {
	return filepath.Join(s.Repo, s.Name, p.ID, target+".qcow2")
}
