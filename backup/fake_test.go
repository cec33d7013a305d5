package backup

import (
	"bytes"
	"context"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/virtbackup/virtbackup/backup/plan"
	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/internal/limit"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/source"
	"github.com/virtbackup/virtbackup/source/pull"
	"github.com/virtbackup/virtbackup/tests/fakelibvirt"
)

// fakeSite is a domain in memory and a repository on disk, for whole runs without a daemon.
type fakeSite struct {
	t      *testing.T
	host   fakelibvirt.Host
	domain *fakelibvirt.Domain
	repo   string
	runDir string // of sockets and scratch files
	random *rand.Rand
	// truth is what the disks held at the instant of each point.
	truth map[string]map[string][]byte
}

var fakeTargets = []string{"vda", "vdb"}

func newFakeSite(t *testing.T) *fakeSite {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "virtbackup-test-") // no test here needs durability, and a disk is slow
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &fakeSite{t: t, repo: filepath.Join(dir, "repo"), runDir: t.TempDir(),
		random: rand.New(rand.NewPCG(1, 2)), truth: map[string]map[string][]byte{}}
	s.domain = s.host.Define("vm1", 1<<20, fakeTargets...)
	s.change()
	return s
}

// change writes to some clusters of each disk: data to one, zeros to another.
func (s *fakeSite) change() {
	s.t.Helper()
	for _, target := range fakeTargets {
		for _, fill := range []byte{byte(1 + s.random.IntN(255)), 0} {
			if !s.domain.Write(target, s.random.Int64N(15)<<16+s.random.Int64N(1<<16), bytes.Repeat([]byte{fill}, 1<<16)) {
				s.t.Fatalf("the guest cannot write to %s", target)
			}
		}
	}
}

func (s *fakeSite) deps() Deps {
	return Deps{Host: &s.host, Repository: s.repo, Source: func(d *guest.LockedDomain, o source.Options, warn func(string)) Source {
		p := pull.New(d, o, warn)
		p.OpenWith(s.host.Open)
		return p
	}}
}

func (s *fakeSite) request(kind manifest.Kind) Request {
	return Request{Wanted: plan.Wanted{Domain: "vm1", Kind: kind}, Limits: limit.New(0),
		Options: source.Options{ScratchDir: s.runDir, SocketDir: s.runDir, Log: slog.New(slog.DiscardHandler)}}
}

// count makes each call of a method of libvirt fail with what fail says of it, and counts
// them from 0.
func (s *fakeSite) count(method string, fail func(n int) error) (calls func() int) {
	var n atomic.Int64 // the watch asks beside the copy
	s.domain.Hook = func(m string) error {
		if m != method {
			return nil
		}
		return fail(int(n.Add(1)) - 1)
	}
	return func() int { return int(n.Load()) }
}

// content is what the disks hold now.
func (s *fakeSite) content() map[string][]byte {
	all := map[string][]byte{}
	for _, target := range fakeTargets {
		all[target] = s.domain.Content(target)
	}
	return all
}

// run makes a point with the given steps: those of a run, or modified ones.
func (s *fakeSite) run(ctx context.Context, request Request, steps []step) (*run, error) {
	s.t.Helper()
	truth := s.content()
	r := &run{Request: request.withDefaults(), Deps: s.deps()}
	err := r.execute(ctx, steps)
	r.result.Point = r.point
	if r.sealed {
		s.truth[r.point.ID] = truth
	}
	return r, err
}

// must changes the disks and makes a point.
func (s *fakeSite) must(kind manifest.Kind) Result {
	s.t.Helper()
	s.change()
	r, err := s.run(s.t.Context(), s.request(kind), steps)
	if err != nil {
		s.t.Fatalf("%s: %v", kind, err)
	}
	return r.result
}

// points are the ids of those that the repository lists.
func (s *fakeSite) points() []string {
	s.t.Helper()
	if _, err := os.Stat(s.repo); err != nil {
		return nil
	}
	repo, err := repository.Open(s.repo)
	if err != nil {
		s.t.Fatal(err)
	}
	lineage, err := repo.Lineage("vm1")
	if err != nil {
		s.t.Fatal(err)
	}
	return lineage.IDs()
}

// checkPoints compares every point with what the disks held at its instant, by qemu-img.
func (s *fakeSite) checkPoints() {
	s.t.Helper()
	ids := s.points()
	if len(ids) != len(s.truth) {
		s.t.Errorf("points %q, want %d", ids, len(s.truth))
	}
	raw := filepath.Join(s.t.TempDir(), "raw")
	for _, id := range ids {
		for _, target := range fakeTargets {
			if out, err := exec.Command("qemu-img", "convert", "-O", "raw", filepath.Join(s.repo, "vm1", id, target+".qcow2"), raw).CombinedOutput(); err != nil {
				s.t.Fatalf("%s of %s: %v: %s", target, id, err, out)
			}
			if got, err := os.ReadFile(raw); err != nil || !bytes.Equal(got, s.truth[id][target]) {
				s.t.Errorf("disk %s of point %s is not what it was at its instant (%v)", target, id, err)
			}
		}
	}
}

// world is the state that a failed run must leave unchanged.
type world struct{ checkpoints, bitmaps, points, files string }

func (s *fakeSite) world() world {
	s.t.Helper()
	var w world
	w.checkpoints = strings.Join(s.domain.Names(), " ")
	for _, target := range fakeTargets {
		w.bitmaps += target + ":" + strings.Join(s.domain.Bitmaps(target), " ") + " "
	}
	w.points = strings.Join(s.points(), " ")
	for _, dir := range []string{s.runDir, filepath.Join(s.repo, "vm1")} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if name := e.Name(); !slices.Contains([]string{"lock", "instants.json"}, name) {
				w.files += name + " "
			}
		}
	}
	return w
}

// wantLeftAlone checks that the guest runs on, and that everything else is unchanged.
func (s *fakeSite) wantLeftAlone(before world) {
	s.t.Helper()
	if s.domain.Frozen() || s.domain.Job() {
		s.t.Errorf("frozen: %v, a job runs: %v", s.domain.Frozen(), s.domain.Job())
	}
	if after := s.world(); after != before {
		s.t.Errorf("left behind:\n%+v, before\n%+v", after, before)
	}
}
