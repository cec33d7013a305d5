package tests

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/backup"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// site is a domain, a repository of its own, and the truth of every point.
type site struct {
	*testdomain.Domain
	t       *testing.T
	repo    string
	program testdomain.Program
	points  []truePoint
	taken   *int // truths, also of its copies: no name comes twice
	mayWarn bool
}

// truePoint is a point and what its disks held at its instant.
type truePoint struct {
	manifest.Manifest
	truth map[string]string // raw images, by target
}

func newSite(t *testing.T, d *testdomain.Domain) *site {
	t.Helper()
	repo := filepath.Join(testdomain.TempDir(t), "repo")
	s := &site{Domain: d, t: t, repo: repo, taken: new(int),
		program: testdomain.Program{Env: []string{"VIRTBACKUP_REPO=" + repo}}}
	s.init()
	return s
}

// init makes the site's repository: a full that makes it on the root file system,
// where test directories mostly are, warns of that.
func (s *site) init() {
	s.t.Helper()
	s.program.Must(s.t, nil, "--quiet", "init")
}

// truths copies what every disk of the domain holds now. Nothing may write
// between this and the point that it is the truth of.
func (s *site) truths() map[string]string {
	s.t.Helper()
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

// backUp makes a point of a domain that nobody writes to. It must end with the
// exit status code.
func (s *site) backUp(code int, kind string, args ...string) backup.Result {
	s.t.Helper()
	truth := s.truths()
	r := s.program.Must(s.t, []int{code}, append([]string{"--json", kind, s.Name}, args...)...)
	return s.add(r, truth)
}

// add keeps the point that a run has made.
func (s *site) add(run testdomain.Result, truth map[string]string) backup.Result {
	s.t.Helper()
	var result backup.Result
	if err := json.Unmarshal([]byte(run.Stdout), &result); err != nil {
		s.t.Fatalf("the result is no JSON: %v\n%s", err, run.Stdout)
	}
	s.points = append(s.points, truePoint{result.Point, truth})
	return result
}

// refused runs what must fail with the exit status code, say the words on
// standard error, and change nothing.
func (s *site) refused(code int, words string, args ...string) {
	s.t.Helper()
	before := s.state()
	r := s.program.Must(s.t, []int{code}, args...)
	if !strings.Contains(r.Stderr, words) {
		s.t.Errorf("the error does not say %q", words)
	}
	if after := s.state(); after != before {
		s.t.Errorf("it has changed something: before\n%s\nafter\n%s", before, after)
	}
}

// state is all that a refused run must leave as it was.
func (s *site) state() string {
	s.t.Helper()
	files, err := filepath.Glob(s.repo + "/*/*")
	if err != nil {
		s.t.Fatal(err)
	}
	hidden, _ := filepath.Glob(s.repo + "/*/.*")
	// What is known of lost checkpoints is no change: they were lost before.
	files = slices.DeleteFunc(append(files, hidden...), func(f string) bool { return filepath.Base(f) == "lock" || filepath.Base(f) == ".mark-lost" })
	run, _ := filepath.Glob(fmt.Sprintf("/var/lib/libvirt/qemu/virtbackup/*%.8s*", s.UUID))
	return fmt.Sprintf("files %v\ncheckpoints %v\njob %v\nrun files %v\n%s", files, s.Checkpoints(), s.HasJob(), run, s.State())
}

// image is that of a disk in a point.
func (s *site) image(p manifest.Manifest, target string) string {
	return filepath.Join(s.repo, s.Name, p.ID, target+".qcow2")
}

// check compares every disk of every point with its truth: flattened by
// qemu-img alone, and as virtbackup restores it, in both formats by turns.
func (s *site) check() {
	s.t.Helper()
	for i, p := range s.points {
		s.checkFlattened(p)
		s.checkRestored(p, []string{"qcow2", "raw"}[i%2])
	}
	if s.HasJob() {
		s.t.Error("a backup job is left")
	}
}

func (s *site) checkFlattened(p truePoint) {
	s.t.Helper()
	flat := filepath.Join(s.Dir, "flat")
	for _, d := range p.Disks {
		image := s.image(p.Manifest, d.Target)
		testdomain.CheckImage(s.t, image)
		testdomain.Flatten(s.t, image, flat)
		sameBytes(s.t, flat, p.truth[d.Target])
	}
	if err := os.Remove(flat); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) checkRestored(p truePoint, format string) {
	s.t.Helper()
	dir := s.restore(p, format)
	for _, d := range p.Disks {
		image := filepath.Join(dir, d.Target+"."+format)
		if format == "raw" {
			sameBytes(s.t, image, p.truth[d.Target])
			continue
		}
		testdomain.CheckImage(s.t, image)
		testdomain.Same(s.t, image, format, p.truth[d.Target])
		if info := testdomain.Tool(s.t, "qemu-img", "info", image); strings.Contains(info, "backing file") {
			s.t.Errorf("the restored image does not stand alone: %s", info)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		s.t.Fatal(err)
	}
}

// restore restores a point to a new directory.
func (s *site) restore(p truePoint, format string) string {
	s.t.Helper()
	dir := filepath.Join(s.Dir, "restored-"+p.ID)
	s.program.Must(s.t, nil, "restore", s.Name, "--quiet", "--to", dir, "--at", p.ID, "--format", format)
	return dir
}

// sameBytes ends the test unless two raw images are the same byte for byte.
func sameBytes(t *testing.T, image, truth string) {
	t.Helper()
	testdomain.Same(t, image, "raw", truth)
	testdomain.Tool(t, "cmp", image, truth)
}

// disk is the entry of a disk in a point, which must have it.
func disk(t *testing.T, m manifest.Manifest, target string) manifest.Disk {
	t.Helper()
	d, ok := m.Disk(target)
	if !ok {
		t.Fatalf("point %s has no disk %s", m.ID, target)
	}
	return d
}

// wantKinds checks how each disk of a point was copied: "vda inc, vdb full, vdc
// rescan".
func wantKinds(t *testing.T, m manifest.Manifest, want string) {
	t.Helper()
	var got []string
	for _, d := range m.Disks {
		how := string(d.Kind)
		if d.Method != "" {
			how = d.Method
		}
		got = append(got, d.Target+" "+how)
		if (d.Kind == manifest.KindFull) != (d.Parent == "") {
			t.Errorf("%s of %s is %s and has the parent %q", d.Target, m.ID, d.Kind, d.Parent)
		}
	}
	if strings.Join(got, ", ") != want {
		t.Errorf("point %s has %s, want %s", m.ID, strings.Join(got, ", "), want)
	}
}

// wantSaid checks that one of the remarks has the words.
func wantSaid(t *testing.T, remarks []string, words string) {
	t.Helper()
	if !slices.ContainsFunc(remarks, func(s string) bool { return strings.Contains(s, words) }) {
		t.Errorf("nothing says %q: %q", words, remarks)
	}
}
