package release

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/backup"
	"github.com/virtbackup/virtbackup/backup/plan"
	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/limit"
	"github.com/virtbackup/virtbackup/lineage"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/source"
	"github.com/virtbackup/virtbackup/source/pull"
	"github.com/virtbackup/virtbackup/tests/fakelibvirt"
)

// site is a domain in memory with the points check1 (a full), check2 and check3 (incs), and
// a checkpoint of somebody else.
type site struct {
	t      *testing.T
	host   fakelibvirt.Host
	domain *fakelibvirt.Domain
	repo   *repository.Repository
	runDir string
}

const foreign = "<domaincheckpoint><name>theirs</name><disks><disk name='vda' checkpoint='bitmap'/></disks></domaincheckpoint>"

func newSite(t *testing.T) *site {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "virtbackup-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &site{t: t, runDir: dir}
	s.domain = s.host.Define("vm1", 1<<20, "vda")
	if err := s.domain.CreateCheckpoint(foreign); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []manifest.Kind{manifest.KindFull, manifest.KindInc, manifest.KindInc} {
		s.backUp(filepath.Join(dir, "repo"), kind)
	}
	if s.repo, err = repository.Open(filepath.Join(dir, "repo")); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *site) backUp(repo string, kind manifest.Kind) {
	s.t.Helper()
	s.domain.Write("vda", 0, bytes.Repeat([]byte{0x41}, 1<<16))
	_, err := backup.Run(s.t.Context(), backup.Deps{Host: &s.host, Repository: repo, Source: func(d *guest.LockedDomain, o source.Options, warn func(string)) backup.Source {
		p := pull.New(d, o, warn)
		p.OpenWith(s.host.Open)
		return p
	}}, backup.Request{Wanted: plan.Wanted{Domain: "vm1", Kind: kind}, Limits: limit.New(0), Options: source.Options{ScratchDir: s.runDir, SocketDir: s.runDir}})
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) release(request Request) (Result, error) {
	s.t.Helper()
	request.Domain, request.SocketDir, request.ScratchDir = "vm1", s.runDir, s.runDir
	return Run(s.t.Context(), &s.host, s.repo, request)
}

// left returns the points that the repository lists, and the points of the checkpoints that
// libvirt lists, including "theirs".
func (s *site) left() string {
	s.t.Helper()
	lineage, err := s.repo.Lineage("vm1")
	if err != nil {
		s.t.Fatal(err)
	}
	var names []string
	for _, name := range s.domain.Names() {
		if point, _, ok := manifest.ParseCheckpointName(name); ok {
			name = point
		}
		names = append(names, name)
	}
	return strings.Join(lineage.IDs(), " ") + " | " + strings.Join(names, " ")
}

// identities returns the points of the identities that the repository has recorded.
func (s *site) identities() (points []string) {
	s.t.Helper()
	ledger, err := s.repo.Ledger("vm1")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, i := range ledger.Issued {
		points = append(points, i.Point)
	}
	return points
}

// Release removes what was requested, and nothing else.
func TestRelease(t *testing.T) {
	for name, tt := range map[string]struct {
		request Request
		prepare func(*site)
		left    string
	}{
		"checkpoints":                      {Request{}, nil, "check1 check2 check3 | theirs"},
		"dry run":                          {Request{DryRun: true}, nil, "check1 check2 check3 | theirs check1 check2 check3"},
		"dry run of points":                {Request{DryRun: true, Points: true}, nil, "check1 check2 check3 | theirs check1 check2 check3"},
		"one checkpoint":                   {Request{Point: "check2"}, nil, "check1 check2 check3 | theirs check1 check3"},
		"points":                           {Request{Points: true}, nil, " | theirs"},
		"the newest point":                 {Request{Points: true, Point: "check3"}, nil, "check1 check2 | theirs check1 check2"},
		"checkpoints of a shut off domain": {Request{}, func(s *site) { s.domain.ShutDown() }, "check1 check2 check3 | theirs"},
		"points of an unknown domain":      {Request{Points: true}, func(s *site) { s.host.Undefine(s.domain) }, " | theirs check1 check2 check3"},
		"records that libvirt has lost":    {Request{}, func(s *site) { s.domain.DropRecords() }, "check1 check2 check3 | "},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			if tt.prepare != nil {
				tt.prepare(s)
			}
			if _, err := s.release(tt.request); err != nil {
				t.Fatal(err)
			}
			if got := s.left(); got != tt.left {
				t.Errorf("left %q, want %q", got, tt.left)
			}
		})
	}
}

// Bitmaps are deleted with their checkpoints, and identities only once no bitmap is left.
func TestReleasedBitmaps(t *testing.T) {
	s := newSite(t)
	s.domain.DropRecords() // the checkpoints are redefined, to delete their bitmaps
	if _, err := s.release(Request{}); err != nil {
		t.Fatal(err)
	}
	if got := s.domain.Bitmaps("vda"); !slices.Equal(got, []string{"theirs"}) || len(s.identities()) > 0 {
		t.Errorf("bitmaps %q, identities of %q", got, s.identities())
	}
	off := newSite(t)
	off.domain.ShutDown()
	r, err := off.release(Request{})
	if got := off.domain.Bitmaps("vda"); err != nil || len(got) != 4 || len(off.identities()) != 3 || !strings.Contains(strings.Join(r.Notes, " "), "stay in its images") {
		t.Errorf("of a domain that is off: bitmaps %q, identities of %q, %q, %v", got, off.identities(), r.Notes, err)
	}
}

// A request that cannot be done is refused before anything is removed. An interrupted one can
// be repeated.
func TestReleaseRefused(t *testing.T) {
	s := newSite(t)
	all := s.left()
	var needed *lineage.NeededError
	if _, err := s.release(Request{Points: true, Point: "check2"}); !errors.As(err, &needed) {
		t.Errorf("a point that another needs: %v", err)
	}
	if _, err := s.release(Request{Point: "check9"}); !errors.Is(err, manifest.ErrNoPoint) {
		t.Errorf("a point that does not exist: %v", err)
	}
	lock, err := s.repo.Lock("vm1")
	if err != nil {
		t.Fatal(err)
	}
	var locked *repository.LockedError
	if _, err := s.release(Request{}); !errors.As(err, &locked) {
		t.Errorf("while another run is alive: %v", err)
	}
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}
	if got := s.left(); got != all {
		t.Errorf("left %q, want %q", got, all)
	}
	deleted := 0
	s.domain.Hook = func(method string) error {
		if method != "DeleteCheckpoint" {
			return nil
		}
		if deleted++; deleted == 2 {
			return &hypervisor.Error{Message: "internal error"}
		}
		return nil
	}
	if _, err := s.release(Request{}); err == nil {
		t.Error("an error of libvirt: no error")
	}
	if got := s.left(); got != "check1 check2 check3 | theirs check1 check2" {
		t.Errorf("half way: left %q", got)
	}
	s.domain.Hook = nil
	if _, err := s.release(Request{}); err != nil || s.left() != "check1 check2 check3 | theirs" {
		t.Errorf("again: %v, left %q", err, s.left())
	}
}

// A domain of the same name with another UUID is not touched.
func TestReleaseOfANamesake(t *testing.T) {
	s := newSite(t)
	s.host.Undefine(s.domain)
	other := s.host.Define("vm1", 1<<20, "vda")
	if err := other.CreateCheckpoint(foreign); err != nil {
		t.Fatal(err)
	}
	r, err := s.release(Request{Points: true})
	if err != nil || len(other.Names()) != 1 || !strings.Contains(strings.Join(r.Notes, " "), "another UUID") {
		t.Errorf("%v, its checkpoints %q, %q", err, other.Names(), r.Notes)
	}
}

// Checkpoints that were made for other repositories are listed, and deleted only by name.
func TestForeign(t *testing.T) {
	s := newSite(t)
	dir, err := os.MkdirTemp("/dev/shm", "virtbackup-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s.backUp(filepath.Join(dir, "other"), manifest.KindFull)
	request := ForeignRequest{Domain: "vm1"}
	r, err := Foreign(&s.host, s.repo, request)
	if err != nil || len(r.Foreign) != 1 || len(r.Deleted) != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	name := r.Foreign[0].Name
	for _, names := range [][]string{{"theirs"}, {name, "theirs"}, {name, s.domain.Names()[1]}} {
		request.Delete = names
		if r, err := Foreign(&s.host, s.repo, request); !errors.Is(err, hypervisor.ErrNoCheckpoint) || len(r.Deleted) > 0 || len(s.domain.Names()) != 5 {
			t.Errorf("%q: deleted %q, %v, left %q", names, r.Deleted, err, s.domain.Names())
		}
	}
	request.Delete, request.DryRun = []string{name}, true
	if r, err := Foreign(&s.host, s.repo, request); err != nil || !slices.Equal(r.Deleted, request.Delete) || len(s.domain.Names()) != 5 {
		t.Errorf("dry run: %+v, %v, left %q", r, err, s.domain.Names())
	}
	request.DryRun = false
	if _, err := Foreign(&s.host, s.repo, request); err != nil || s.left() != "check1 check2 check3 | theirs check1 check2 check3" {
		t.Errorf("%v, left %q", err, s.left())
	}
}
