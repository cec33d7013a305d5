package faults

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/lineage"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// pruneScenario is a command on the repository of a domain that has many kinds of points.
type pruneScenario struct {
	name string
	args []string
	// before leads to the state that the command finds.
	before []brokenCommand
	// tested says whether a point is of interest: most belong to other scenarios.
	tested func(point string) bool
}

// brokenCommand is a command that is broken by a fault, or by none.
type brokenCommand struct {
	fault string
	args  []string
}

// pruneCell is one fault of one scenario, on one kind of file system.
type pruneCell struct {
	*pruneScenario
	system, point, way string
}

func (c pruneCell) String() string {
	return fmt.Sprintf("%s at %q of %s on %s", c.way, c.point, c.name, c.system)
}

func (c pruneCell) place() string { return c.name + "/" + c.point + "/" + c.system }

// pruned is a repository that is pruned again and again, each time from the same state.
type pruned struct {
	*unhosted
	*numbers
	system string
	starts map[string]string   // copies of the repository as a scenario finds it, by its name
	ends   map[string]pruneEnd // what each scenario leads to
	seen   map[string]bool     // states of the points that were compared already
}

// pruneEnd is what an undisturbed run leads to.
type pruneEnd struct {
	before, after []string // points that are listed
	files         []string // all that there is then
}

// newPruned makes the points, in a new file system of that kind.
func newPruned(t *testing.T, system string, seed uint64, n *numbers) *pruned {
	t.Helper()
	p := &pruned{unhosted: newUnhosted(t, testsite.Mounted(t, system, pruneSystemMiB), seed), numbers: n, system: system,
		starts: map[string]string{}, ends: map[string]pruneEnd{}, seen: map[string]bool{}}
	p.family()
	p.starts[""] = p.copied("family")
	return p
}

// pruneSystemMiB is the least that mkfs.xfs takes, in MiB.
const pruneSystemMiB = 320

// family makes points of all kinds that can be chained:
//
//	check1 ── check2 ── check3 ─┬─ diff4
//	                            └─ check5 ── check6 ── check7 ── check8 ── check9
//
// vda grows with check3, shrinks with check6 to a length inside of a cluster, and grows again
// with check7. vdb is a full in check5. vdc is there from check3 to check7. check2 and check6
// are compressed.
func (u *unhosted) family() {
	u.T.Helper()
	u.resize("vda", 20*clusterBytes)
	u.resize("vdb", 9*clusterBytes+37*512)
	u.next("check1", "", manifest.KindFull)
	u.change()
	u.point(made{id: "check2", parent: "check1", kind: manifest.KindInc, zstd: true})
	u.resize("vda", 26*clusterBytes+512)
	u.resize("vdc", 4*clusterBytes)
	u.next("check3", "check2", manifest.KindInc)
	u.next("diff4", "check3", manifest.KindDiff)
	u.change()
	u.point(made{id: "check5", parent: "check3", kind: manifest.KindInc, full: []string{"vdb"}})
	u.resize("vda", 21*clusterBytes+5*512)
	u.change()
	u.point(made{id: "check6", parent: "check5", kind: manifest.KindInc, zstd: true})
	u.resize("vda", 28*clusterBytes)
	u.next("check7", "check6", manifest.KindInc)
	delete(u.disks, "vdc")
	u.next("check8", "check7", manifest.KindInc)
	u.next("check9", "check8", manifest.KindInc)
}

func (u *unhosted) next(id, parent string, kind manifest.Kind) {
	u.T.Helper()
	u.change()
	u.point(made{id: id, parent: parent, kind: kind})
}

// copied copies the repository to the side.
func (p *pruned) copied(name string) string {
	p.T.Helper()
	to := filepath.Join(p.Dir, "start-"+strings.ReplaceAll(name, " ", "-"))
	testdomain.Tool(p.T, "cp", "-a", "--reflink=auto", p.Repo, to)
	return to
}

// arrange puts the repository into the state that the scenario finds.
func (p *pruned) arrange(s *pruneScenario) {
	p.T.Helper()
	start, ready := p.starts[s.name]
	if !ready {
		start = p.starts[""]
	}
	p.removeRepository()
	testdomain.Tool(p.T, "cp", "-a", "--reflink=auto", start, p.Repo)
	if ready {
		return
	}
	for _, b := range s.before {
		r := p.command(b.fault, nil, b.args)
		if (r.Code == 0) != (b.fault == "") {
			p.T.Fatalf("%s, before %s: exit %d", b.args, s.name, r.Code)
		}
	}
	p.starts[s.name] = p.copied(s.name)
}

func (p *pruned) removeRepository() {
	p.T.Helper()
	if err := os.RemoveAll(p.Repo); err != nil {
		p.T.Fatal(err)
	}
}

// command runs a command of the domain with a fault.
func (p *pruned) command(fault string, env []string, args []string) testdomain.Result {
	p.T.Helper()
	program := p.Program
	program.Binary = testdomain.FaultyBinary(p.T)
	program.Env = append(append(slices.Clone(program.Env), "VIRTBACKUP_FAULT="+fault), env...)
	return program.Run(p.T, args...)
}

// trace lists the points of interest of a scenario.
func (p *pruned) trace(s *pruneScenario) (points []string) {
	p.T.Helper()
	p.arrange(s)
	file := filepath.Join(p.Dir, "trace")
	if r := p.command("", []string{"VIRTBACKUP_FAULT_TRACE=" + file}, s.args); r.Code != 0 {
		p.T.Fatalf("%s: exit %d", s.name, r.Code)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		p.T.Fatal(err)
	}
	if err := os.Remove(file); err != nil {
		p.T.Fatal(err)
	}
	for point := range strings.Lines(string(text)) {
		point = strings.TrimSuffix(point, "\n")
		// The note of a verification has another temporary name each time.
		if (s.tested == nil || s.tested(point)) && !with("fsync .verified-")(point) {
			points = append(points, point)
		}
	}
	return points
}

// end is what the scenario leads to without a fault.
func (p *pruned) end(s *pruneScenario) pruneEnd {
	p.T.Helper()
	if end, known := p.ends[s.name]; known {
		return end
	}
	p.arrange(s)
	end := pruneEnd{before: p.listed()}
	p.command("", nil, s.args)
	end.after = p.listed()
	p.compare("undisturbed " + s.name)
	p.goOn(s)
	p.compare("undisturbed " + s.name + ", and the run after it")
	end.files = append(p.files(), p.chains()...)
	p.ends[s.name] = end
	return end
}

// try breaks a command, checks everything, goes on, and checks that the end is the same.
func (p *pruned) try(c pruneCell) {
	p.T.Helper()
	p.of(c.way).Add(1)
	p.disturb(c, func() testdomain.Result { return p.command(c.point+":"+c.way, nil, c.args) })
}

// disturb is try for a command that run runs and breaks.
func (p *pruned) disturb(c pruneCell, run func() testdomain.Result) testdomain.Result {
	p.T.Helper()
	p.T.Logf("--- %s", c)
	end := p.end(c.pruneScenario)
	p.arrange(c.pruneScenario)
	r := run()
	p.wantBroken(c, r)
	listed := p.listed()
	for _, id := range listed {
		if !slices.Contains(end.before, id) && !slices.Contains(end.after, id) {
			p.T.Errorf("%s: %s is listed, and should never be", c, id)
		}
	}
	for _, id := range end.before {
		if slices.Contains(end.after, id) && !slices.Contains(listed, id) {
			p.T.Errorf("%s: %s stays, and is not listed", c, id)
		}
	}
	p.compare(c.String())
	p.goOn(c.pruneScenario)
	where := c.String() + ", and the run after it"
	if got := append(p.files(), p.chains()...); !slices.Equal(got, end.files) {
		p.T.Errorf("%s: the end is another one:\n%s\nwant\n%s", where, strings.Join(got, "\n"), strings.Join(end.files, "\n"))
	}
	p.compare(where)
	return r
}

// wantBroken checks how a broken command has ended, and that it has left nothing that is not
// a point, unless it was killed, or could not remove something.
func (p *pruned) wantBroken(c pruneCell, r testdomain.Result) {
	p.T.Helper()
	codes := map[string][]int{kill: {137}, term: {143, 0}, fails: {1, 3, 0}, noSpace: {1, 3, 0}, filled: {1, 3, 0}, crash: {70}}[c.way]
	if !slices.Contains(codes, r.Code) {
		p.T.Errorf("%s: exit %d, want one of %v\n%s", c, r.Code, codes, r.Stderr)
	}
	if panicked := strings.Contains(r.Stderr, "internal error: fault: "); panicked != (c.way == crash) {
		p.T.Errorf("%s: exit %d\n%s", c, r.Code, r.Stderr)
	}
	left, _ := filepath.Glob(filepath.Join(p.Repo, p.Name, ".*"))
	removes := with("remove: ", "merge: remove old")(c.point) && c.way != term
	if len(left) > 0 && c.way != kill && !removes {
		p.T.Errorf("%s: left: %v", c, left)
	}
}

// goOn runs the command again, and then what merges all that can be merged. Where the command
// was done already it may say so.
func (p *pruned) goOn(s *pruneScenario) {
	p.T.Helper()
	args := p.stillToDo(s.args)
	if r := p.command("", nil, args); r.Code != 0 && r.Code != 2 && r.Code != 6 {
		p.T.Errorf("%s, again: exit %d\n%s", s.name, r.Code, r.Stderr)
	}
	p.Program.Must(p.T, nil, "prune", p.Name, "--keep-last", "1000", "--compact")
	if left, _ := filepath.Glob(filepath.Join(p.Repo, p.Name, ".*")); len(left) > 0 {
		p.T.Errorf("%s, again: left: %v", s.name, left)
	}
}

// stillToDo leaves out of --remove the points that were removed already.
func (p *pruned) stillToDo(args []string) []string {
	p.T.Helper()
	i := slices.Index(args, "--remove") + 1
	if i == 0 {
		return args
	}
	listed := p.listed()
	args = slices.Clone(args)
	args[i] = strings.Join(slices.DeleteFunc(strings.Split(args[i], ","), func(id string) bool { return !slices.Contains(listed, id) }), ",")
	if args[i] == "" {
		args[i] = "check999" // none
	}
	return args
}

// listed are the points that virtbackup lists.
func (p *pruned) listed() (ids []string) {
	p.T.Helper()
	r := p.Program.Must(p.T, nil, "list", p.Name, "--json")
	var all []manifest.Manifest
	if err := json.Unmarshal([]byte(r.Stdout), &all); err != nil {
		p.T.Fatal(err)
	}
	for _, m := range all {
		ids = append(ids, m.ID)
	}
	return ids
}

// files are the names of the files of the repository, sorted.
func (p *pruned) files() (names []string) {
	p.T.Helper()
	err := filepath.WalkDir(p.Repo, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || e.Name() == "lock" || e.Name() == repository.ReadersName {
			return err
		}
		name, _ := strings.CutPrefix(path, p.Repo+"/")
		names = append(names, name)
		return nil
	})
	if err != nil {
		p.T.Fatal(err)
	}
	return names
}

func (p *pruned) lineage() *lineage.Lineage {
	p.T.Helper()
	repo, err := repository.Open(p.Repo)
	if err != nil {
		p.T.Fatal(err)
	}
	l, err := repo.Lineage(p.Name)
	if err != nil {
		p.T.Fatal(err)
	}
	return l
}

// chains says what each point is chained onto, as its manifest has it.
func (p *pruned) chains() (all []string) {
	p.T.Helper()
	for _, m := range p.lineage().All() {
		text := fmt.Sprintf("%s is a %s of %q, merged %v, full of %v, synthetic %v:", m.ID, m.Kind, m.Parent, m.Merged, m.FullTime, m.Synthetic)
		for _, d := range m.Disks {
			text += fmt.Sprintf(" %s of %q", d.Target, d.Parent)
		}
		all = append(all, text)
	}
	return all
}
