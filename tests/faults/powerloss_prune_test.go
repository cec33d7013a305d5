package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/keep"
	"github.com/virtbackup/virtbackup/lineage"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// pruning is a sequence of commands as one sequence of file system calls, and what there may
// be after a power cut.
type pruning struct {
	*pruned
	name   string
	load   func() *stable
	events []event
	// versions are what the directory of a point may hold: what it held when the commands began,
	// and after each rename and exchange.
	versions map[string][]image
	stays    []string            // points that are listed before and after
	listed   []string            // points that are listed in the end
	deleted  []string            // points that are gone in the end
	protects string              // protected.json in the end, "" if there is none
	chained  map[string][]string // what manifests name as parents, by their content
	equals
}

// pruneRecordings are the commands of which the power is cut. A fault ends the ones that are
// broken.
var pruneRecordings = []struct {
	name     string
	before   []brokenCommand // whose calls are durable
	commands []brokenCommand
	// needed says that all fsyncs are of use: each is left out in turn.
	needed bool
}{
	{name: "a protection", commands: commands([]string{"protect", domainOfNoHost + "@diff4"}), needed: true},
	{name: "a prune", before: commands([]string{"protect", domainOfNoHost + "@diff4"}), commands: commands(keepTwo), needed: true},
	{name: "an undo", before: hideOnly, commands: commands([]string{"prune", domainOfNoHost, "--undo", "check5"}), needed: true},
	{name: "a synthetic full", commands: commands([]string{"prune", domainOfNoHost, "--materialise", "check7"}), needed: true},
	// What the killed run has done need not be durable.
	{name: "killed after the exchange", commands: []brokenCommand{{"merge: exchange after:kill", keepTwo}, {args: keepTwo}}},
	{name: "killed in deleting", commands: []brokenCommand{{"remove: rename after#2:kill", keepTwo}, {args: keepTwo}}},
	// An exchange that cannot be made durable is taken back.
	{name: "exchange taken back", commands: []brokenCommand{{"merge: sync domain before:error", keepTwo}}},
	{name: "durable exchange taken back", commands: []brokenCommand{{"merge: sync domain after:error", keepTwo}}},
}

// A power cut at any instant of a prune leaves every point that is there whole, with all that
// it is chained onto, and as it was before or after the exchange; no point that stays is
// hidden or lost, and none that is reported as removed comes back. Without any one of its
// fsyncs that is not so.
func TestPowerLossOfAPrune(t *testing.T) {
	t.Parallel()
	seed := testsite.NewSeed(t)
	for n, system := range []string{"tmpfs", "xfs"} {
		t.Run(system, func(t *testing.T) {
			t.Parallel()
			p := newPruned(t, system, seed, new(numbers))
			for i, recorded := range pruneRecordings {
				if !testsite.AllFaults() && (uint64(i+n)+seed)%4 > 1 {
					continue // of a cut each on one of the two at most
				}
				r := p.record(recorded.name, recorded.before, recorded.commands)
				n, states := r.cutEverywhere(rand.New(rand.NewPCG(seed, 1)), nil)
				t.Logf("%s: %d power cuts after %d calls", r.name, n.states, n.calls)
				if n.wrong != nil {
					t.Errorf("%s: %v", r.name, n.wrong)
				}
				for _, state := range states {
					r.judge(state)
				}
				if recorded.needed {
					r.wantSyncsNeeded(seed)
				}
			}
		})
	}
}

// A point of which the name cannot be made durable is not listed, and stays so: a power cut lists
// no point of which the files were removed.
func TestPowerLossOfAFailedSeal(t *testing.T) {
	t.Parallel()
	seed := testsite.NewSeed(t)
	s := testsite.Small(t)
	s.BackUp(0, "full")
	s.Write("vda", 0, 1<<20, 0x43)
	root := filepath.Dir(s.Repo)
	first := load(t, root).cut(nothing{})
	_, events := stracedBroken(s, root, "seal: sync domain before:error", []int{1}, "inc", s.Name)
	r := &pruning{pruned: &pruned{unhosted: &unhosted{Site: s}}, name: "a failed seal", events: events,
		load:     func() *stable { return &stable{t, root, first.tree()} },
		versions: map[string][]image{}, chained: map[string][]string{}, equals: equals{}, stays: []string{"check1"}, listed: []string{"check1"}}
	r.collectVersions()
	if len(r.versions["check2"]) != 1 {
		t.Errorf("%d versions of check2 were listed, want 1", len(r.versions["check2"]))
	}
	n, _ := r.cutEverywhere(rand.New(rand.NewPCG(seed, 1)), nil)
	t.Logf("%d power cuts after %d calls: %v", n.states, n.calls, n.wrong)
	if n.wrong != nil {
		t.Error(n.wrong)
	}
}

// record runs commands under strace.
func (p *pruned) record(name string, before, all []brokenCommand) *pruning {
	p.T.Helper()
	from := &pruneScenario{name: "recorded " + name, before: before}
	p.arrange(from)
	r := &pruning{pruned: p, name: name, versions: map[string][]image{}, chained: map[string][]string{}, equals: equals{}}
	root := filepath.Dir(p.Repo)
	first := (&stable{p.T, root, loadNode(p.T, p.starts[from.name])}).cut(nothing{})
	r.load = func() *stable {
		d := &stable{p.T, root, newDir()}
		repo := first.tree()
		d.top.names["repo"], d.top.now["repo"] = repo, repo
		return d
	}
	listed := p.listed()
	for _, b := range all {
		_, events := stracedBroken(p.Site, root, b.fault, []int{0, 1, 137}, b.args...)
		r.events = append(r.events, slices.DeleteFunc(events, func(e event) bool { return !e.within(p.Repo) && !e.within(root+"/repo") })...)
	}
	r.listed = p.listed()
	r.stays = slices.DeleteFunc(listed, func(id string) bool { return !slices.Contains(r.listed, id) })
	protects, err := os.ReadFile(filepath.Join(p.Repo, p.Name, keep.ProtectedName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.T.Fatal(err)
	}
	r.protects = string(protects)
	for _, point := range p.Points {
		if _, there := p.lineage().Point(point.ID); !there {
			r.deleted = append(r.deleted, point.ID)
		}
	}
	r.collectVersions()
	return r
}

var sealedFile = regexp.MustCompile(`/(check|diff|copy)\d+/[^.][^/]*$`)

// writes tells whether a call changes the content of the file that it names first.
func (c *call) writes() bool {
	if c.name == "ioctl" {
		return !strings.HasSuffix(c.args[1], "FIEMAP") // asks for the extents of a file
	}
	return slices.Contains([]string{"write", "pwrite64", "ftruncate", "fallocate"}, c.name)
}

// collectVersions replays the commands undisturbed, and checks that no file of a point is
// written to.
func (r *pruning) collectVersions() {
	d := r.load()
	collect := func() {
		m := d.cut(all{})
		for _, id := range m.points(r.domain()) {
			now := m.below(r.domain() + "/" + id)
			if versions := r.versions[id]; len(versions) == 0 || !r.same(now, versions[len(versions)-1]) {
				r.versions[id] = append(versions, now)
			}
		}
	}
	collect()
	d.replayCalls(r.events, nil, func(c *call) {
		if c.writes() && sealedFile.MatchString(c.path(0)) {
			r.T.Errorf("%s: %s changes %s", r.name, c.name, c.path(0))
		}
		if strings.HasPrefix(c.name, "rename") {
			collect()
		}
	})
}

func (r *pruning) domain() string { return "/repo/" + r.Name }

// cutEverywhere cuts the power after each call, of a cut after half of them.
func (r *pruning) cutEverywhere(rng *rand.Rand, without leftOut) (n cuts, states []image) {
	r.T.Helper()
	d := r.load()
	check := func(keep remains, last bool) {
		n.states++
		m := d.cut(keep)
		if err := r.judgeNames(m, last); err != nil {
			n.wrong = errors.Join(n.wrong, fmt.Errorf("after call %d: %w", n.calls, err))
		}
		if rng.IntN(len(r.events)) == 0 {
			states = append(states, m.clone())
		}
	}
	d.replay(r.events, without, func() {
		n.calls++
		if n.wrong != nil || !testsite.AllFaults() && rng.IntN(2) == 0 {
			return
		}
		for _, keep := range remaining(rng) {
			check(keep, false)
		}
	})
	if n.wrong == nil {
		check(nothing{}, true)
	}
	return n, states[:min(len(states), 3)]
}

// judgeNames checks what a power cut has left, file by file.
func (r *pruning) judgeNames(m image, last bool) error {
	points := m.points(r.domain())
	for _, id := range points {
		if err := r.judgePoint(m, id); err != nil {
			return err
		}
	}
	for _, id := range r.stays {
		if !slices.Contains(points, id) || r.hides(m, id) {
			return fmt.Errorf("%s is not listed", id)
		}
	}
	protects := string(m[r.domain()+"/"+keep.ProtectedName])
	if protects != "" && !json.Valid([]byte(protects)) {
		return errors.New("protected.json is torn")
	}
	if !last {
		return nil
	}
	for id := range r.versions {
		listed := slices.Contains(points, id) && !r.hides(m, id)
		if want := slices.Contains(r.listed, id); listed != want {
			return fmt.Errorf("in the end %s is listed: %v, want %v", id, listed, want)
		}
	}
	if protects != r.protects {
		return fmt.Errorf("in the end protected.json is %q, want %q", protects, r.protects)
	}
	return nil
}

func (r *pruning) hides(m image, id string) bool {
	_, hidden := m[r.domain()+"/"+id+"/"+lineage.RemovedName]
	return hidden
}

// judgePoint checks that a point is as it was at some time, and has what it is chained onto.
func (r *pruning) judgePoint(m image, id string) error {
	if note, hidden := m[r.domain()+"/"+id+"/"+lineage.RemovedName]; hidden && !json.Valid(note) {
		return fmt.Errorf("%s of %s is torn", lineage.RemovedName, id)
	}
	files := m.below(r.domain() + "/" + id)
	if !slices.ContainsFunc(r.versions[id], func(version image) bool { return r.same(files, version) }) {
		return fmt.Errorf("%s is torn: it has %v", id, files.names())
	}
	for _, parent := range r.parents(files[manifest.FileName]) {
		if _, ok := m[r.domain()+"/"+parent]; !ok {
			return fmt.Errorf("%s is chained onto %s, which is missing", id, parent)
		}
	}
	return nil
}

// parents are the images that a manifest names: POINT/TARGET.qcow2.
func (r *pruning) parents(content []byte) []string {
	all, known := r.chained[string(content)]
	if known {
		return all
	}
	p, err := manifest.Parse(content)
	if err != nil {
		r.T.Fatal(err)
	}
	for _, d := range p.Disks {
		if id, name, _ := d.ParentImage(); id != "" {
			all = append(all, id+"/"+name)
		}
	}
	r.chained[string(content)] = all
	return all
}

// judge lets QEMU and virtbackup judge what a power cut has left, and prunes once more.
func (r *pruning) judge(state image) {
	r.T.Helper()
	r.arrange(&pruneScenario{})
	r.removeRepository()
	state.save(r.T, r.Dir)
	where := "after a power cut in " + r.name
	r.compare(where)
	r.command("", nil, keepTwo)
	r.compare(where + ", and the next prune")
	if left, _ := filepath.Glob(filepath.Join(r.Repo, r.Name, ".partial*")); len(left) > 0 {
		r.T.Errorf("%s, and the next prune: left: %v", where, left)
	}
}

// syncs are the fsyncs of a recording: for a file all of them, for a directory each.
func (r *pruning) syncs() (names []string, each []leftOut) {
	paths := map[string]bool{}
	for i, e := range r.events {
		c := e.call
		if e.end || c.name != "fsync" && c.name != "fdatasync" || paths[c.path(0)] {
			continue
		}
		chosen := leftOut(func(other *call) bool { return other == c })
		if strings.Contains(filepath.Base(c.path(0)), ".") && !strings.HasPrefix(filepath.Base(c.path(0)), ".partial") {
			chosen = ofPath(c.path(0))
			paths[c.path(0)] = true
		} else if slices.Contains(r.deleted, filepath.Base(c.path(0))) {
			continue // if it is listed again after a power cut, the policy decides again
		} else if exchanged(r.events[i:], filepath.Base(c.path(0))) {
			continue // what takes its place has removed.json, too
		}
		names = append(names, strings.TrimPrefix(c.path(0), r.Repo))
		each = append(each, chosen)
	}
	return names, each
}

// exchanged tells whether a merged directory takes the place of a point's.
func exchanged(later []event, id string) bool {
	return slices.ContainsFunc(later, func(e event) bool {
		return e.call.name == "renameat2" && filepath.Base(e.call.at(0)) == ".partial-merge-"+id
	})
}

// wantSyncsNeeded leaves out each fsync in turn (of a cut a third of them): then something is
// wrong after some power cut.
func (r *pruning) wantSyncsNeeded(seed uint64) {
	r.T.Helper()
	names, each := r.syncs()
	tested := 0
	for i, left := range each {
		if !testsite.AllFaults() && (uint64(i)+seed)%3 != 0 {
			continue
		}
		var wrong error
		for try := uint64(0); try < 3 && wrong == nil; try++ { // chance decides what a power cut loses
			n, _ := r.cutEverywhere(rand.New(rand.NewPCG(seed, try)), left)
			wrong = n.wrong
		}
		r.T.Logf("%s, without fsync %d, of %s: %v", r.name, i, names[i], wrong)
		if wrong == nil {
			r.T.Errorf("%s: nothing is wrong without fsync %d, of %s: it is not needed, or this test does not see it", r.name, i, names[i])
		}
		tested++
	}
	r.T.Logf("%s: %d of %d fsyncs were left out", r.name, tested, len(each))
}
