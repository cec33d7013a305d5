package faults

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// A power cut at any instant of a run leaves no listed point torn, whatever part
// of what was not synced is lost, and no point that was reported as done is lost.
//
// strace records the file system calls of the run; a model of a file system that keeps only
// what was synced (stable) executes them, and is cut off after each call. To show that the
// test would find a missing fsync, each one is left out in turn (a third of them, unless all
// faults are asked for).
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	seed := testsite.NewSeed(t)
	s := testsite.New(t, testdomain.NewWithExtras(t, testdomain.Disk{Target: "vda", Size: 8 << 20}, testdomain.Disk{Target: "vdb", Size: 2<<20 + 512}))
	needed := map[string]bool{} // what is synced -> a torn or lost point shows if it is not
	var total cuts
	if err := os.RemoveAll(s.Repo); err != nil { // the full makes it
		t.Fatal(err)
	}
	for _, kind := range []string{"full", "inc"} {
		s.IO("vda", fmt.Sprintf("write -P %#x 1M 2M", 0x40+len(s.Points)), "write -P 0x77 5M 100k")
		s.IO("vdb", fmt.Sprintf("write -P %#x 0 300k", 0x60+len(s.Points)))
		r := record(s, kind)
		n, states := r.cutEverywhere(t, rand.New(rand.NewPCG(seed, 1)), nil)
		total.add(n)
		if n.wrong != nil {
			t.Errorf("%s: %v", kind, n.wrong)
		}
		for _, state := range states {
			judge(s, state)
		}
		for _, path := range someOf(r.synced(), seed) {
			n, _ := r.cutEverywhere(t, rand.New(rand.NewPCG(seed, 2)), ofPath(path))
			needed[filepath.Base(path)] = needed[filepath.Base(path)] || n.wrong != nil
			t.Logf("%s, without the fsync of %s: %v", kind, path, n.wrong)
		}
	}
	for name, found := range needed {
		if !found {
			t.Errorf("nothing is wrong without the fsync of %s: it is not needed, or this test does not see it", name)
		}
	}
	t.Logf("%d power cuts after %d calls, %d points that were listed then were whole", total.states, total.calls, total.points)
	s.Check()
}

// someOf is a third of the paths, of other names each time, unless all faults are asked for.
func someOf(paths []string, seed uint64) []string {
	return slices.DeleteFunc(paths, func(path string) bool {
		sum := sha256.Sum256(fmt.Append(nil, seed, filepath.Base(path)))
		return !testsite.AllFaults() && sum[0]%3 != 0
	})
}

// cuts counts power cuts, and says what was wrong after one.
type cuts struct {
	calls, states, points int
	wrong                 error
}

func (n *cuts) add(m cuts) {
	n.calls, n.states, n.points = n.calls+m.calls, n.states+m.states, n.points+m.points
}

// recording is a run as a sequence of file system calls.
type recording struct {
	domain string // path of its directory in an image
	load   func() *stable
	events []event
	whole  image // what there is after the run
	before []string
}

// record makes a point under strace.
func record(s *testsite.Site, kind string) *recording {
	s.T.Helper()
	root := filepath.Dir(s.Repo)
	first := load(s.T, root).cut(nothing{})
	r := &recording{domain: "/repo/" + s.Name}
	r.before = first.points(r.domain)
	old := filepath.Join(s.Dir, "before-"+kind)
	first.save(s.T, old)
	truth := s.Truths()
	result, events := straced(s, root, []int{0, 3}, "--json", kind, s.Name)
	s.Add(result, truth)
	r.events = events
	r.whole = load(s.T, root).cut(nothing{})
	r.load = func() *stable {
		d := load(s.T, old)
		d.root = root
		return d
	}
	return r
}

// cutEverywhere cuts the power after each call, and returns some of the states
// that are not wrong.
func (r *recording) cutEverywhere(t *testing.T, rng *rand.Rand, without leftOut) (n cuts, states []image) {
	t.Helper()
	d := r.load()
	full := len(r.before) + 1
	check := func(keep remains, last bool) {
		n.states++
		m := d.cut(keep)
		points := m.points(r.domain)
		n.points += len(points)
		for _, p := range points {
			if err := m.torn(r.whole, r.domain+"/"+p); err != nil {
				n.wrong = errors.Join(n.wrong, fmt.Errorf("after call %d: %w", n.calls, err))
			}
		}
		if err := r.issued(d, m); err != nil {
			n.wrong = errors.Join(n.wrong, fmt.Errorf("after call %d: %w", n.calls, err))
		}
		if want := len(r.before); len(points) < want || last && len(points) < full {
			n.wrong = errors.Join(n.wrong, fmt.Errorf("after call %d: only %v are listed", n.calls, points))
		}
		if len(points) > 0 {
			if err := m.torn(r.whole, "/repo/repository.json"); err != nil || m["/repo/repository.json"] == nil {
				n.wrong = errors.Join(n.wrong, fmt.Errorf("after call %d: repository.json: %w", n.calls, err))
			}
		}
		if rng.IntN(200) == 0 || len(points) == full && rng.IntN(20) == 0 {
			states = append(states, m)
		}
	}
	d.replay(r.events, without, func() {
		n.calls++
		if n.wrong != nil {
			return
		}
		for _, keep := range []remains{nothing{}, all{}, some{rng}, some{rng}, some{rng}, some{rng}} {
			check(keep, false)
		}
	})
	if n.wrong == nil {
		check(nothing{}, true)
	}
	return n, states[:min(len(states), 5)]
}

// issued says what is wrong with the list of identities after a power cut: if it exists it
// must be whole, and have the identity of a run once an image is being written, because
// libvirt has a checkpoint of that identity by then.
func (r *recording) issued(d *stable, m image) error {
	list, ok := m[r.domain+"/instants.json"]
	if ok && !json.Valid(list) {
		return errors.New("instants.json is torn")
	}
	domain := d.find(d.root + r.domain)
	if domain == nil {
		return nil
	}
	for name, dir := range domain.now {
		id, partial := strings.CutPrefix(name, ".partial-")
		if partial && dir.now["vda.qcow2"] != nil && !strings.Contains(string(list), `"point": "`+id+`"`) {
			return fmt.Errorf("instants.json does not have %s, whose job has begun", id)
		}
	}
	return nil
}

// synced lists the paths that the run syncs.
func (r *recording) synced() (paths []string) {
	for _, e := range r.events {
		if c := e.call; (c.name == "fsync" || c.name == "fdatasync") && !slices.Contains(paths, c.path(0)) {
			paths = append(paths, c.path(0))
		}
	}
	return paths
}

// judge checks with virtbackup and qemu-img what a power cut has left.
func judge(s *testsite.Site, state image) {
	s.T.Helper()
	dir := testdomain.TempDir(s.T)
	state.save(s.T, dir)
	after := *s
	after.Repo = filepath.Join(dir, "repo")
	program := testdomain.Program{Env: []string{"VIRTBACKUP_REPO=" + after.Repo}}
	points := state.points("/repo/" + s.Name)
	if len(points) == 0 {
		return
	}
	program.Must(s.T, nil, "list", s.Name)
	for _, p := range s.Points {
		if slices.Contains(points, p.ID) {
			after.CheckFlattened(p)
		}
	}
}
