package faults

import (
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testsite"
)

// keepTwo hides all but the newest two points, and merges them.
var keepTwo = []string{"prune", domainOfNoHost, "--keep-last", "2", "--compact"}

// hideOnly hides the same points, deletes those that nobody needs, and fails then.
var hideOnly = []brokenCommand{{"merge: disk:error", keepTwo}}

// The scenarios have each state of the protocol: points that are hidden and needed, hidden and
// not needed, and what a killed prune leaves before and after the exchange.
var pruneScenarios = []pruneScenario{
	{name: "policy", args: keepTwo},
	// Points that were verified are read back after they are merged, and stay verified.
	{name: "verified", args: keepTwo, before: commands([]string{"verify", domainOfNoHost}),
		tested: with("merge: ", "fsync vda", "check piece", "prune: delete")},
	// check3 has two children: it stays hidden, with all below it.
	{name: "branch", args: keepTwo, before: commands([]string{"protect", domainOfNoHost + "@diff4"}),
		tested: with("merge: ", "hide", "write image", "prune: delete", "remove: ")},
	{name: "named", args: []string{"prune", domainOfNoHost, "--remove", "check2,check6", "--compact"},
		tested: with("merge: ", "hide", "write image", "prune: delete", "remove: ")},
	{name: "hidden", args: keepTwo, before: hideOnly,
		tested: with("merge: ", "remove: ", "prune: delete")},
	{name: "undo", args: []string{"prune", domainOfNoHost, "--undo", "check5"}, before: hideOnly},
	{name: "materialise", args: []string{"prune", domainOfNoHost, "--materialise", "check7"}},
	{name: "protect", args: []string{"protect", domainOfNoHost + "@check2", "--note", "before the upgrade"}},
	{name: "unprotect", args: []string{"unprotect", domainOfNoHost + "@check2"},
		before: commands([]string{"protect", domainOfNoHost + "@check2"})},
	// What a killed prune has left is cleaned up by one that is broken, too.
	{name: "killed in hiding", args: keepTwo, before: []brokenCommand{{"fsync .removed.json after#2:kill", keepTwo}},
		tested: with("hide", "fsync .removed.json", "recover", "clean")},
	{name: "killed before the exchange", args: keepTwo, before: []brokenCommand{{"merge: exchange before:kill", keepTwo}},
		tested: with("merge: exchange", "merge: remove old", "remove: ", "clean")},
	{name: "killed after the exchange", args: keepTwo, before: []brokenCommand{{"merge: exchange after:kill", keepTwo}},
		tested: with("merge: exchange", "merge: remove old", "remove: ", "clean")},
	{name: "killed in deleting", args: keepTwo, before: []brokenCommand{{"remove: rename after#2:kill", keepTwo}},
		tested: with("remove: ", "prune: delete", "clean")},
}

func commands(all ...[]string) (before []brokenCommand) {
	for _, args := range all {
		before = append(before, brokenCommand{args: args})
	}
	return before
}

// At every point of prune and its kin, virtbackup is killed, ended by a signal, given an I/O
// error or a full disk, and made to panic. Every point that is there then, opened with its
// chain, shows what it showed: to QEMU, and as virtbackup restores it; verify finds no damage;
// nothing that stays is hidden; the next run leads to where an undisturbed one does. That is so
// on a file system that shares data between files, and on one that does not. VIRTBACKUP_SEED
// repeats the cut; VIRTBACKUP_FAULTS='undo/' takes what begins so.
func TestFaultPrune(t *testing.T) {
	t.Parallel()
	seed := testsite.NewSeed(t)
	var n numbers
	t.Run("systems", func(t *testing.T) {
		for _, system := range []string{"tmpfs", "xfs"} {
			t.Run(system, func(t *testing.T) {
				t.Parallel()
				p := newPruned(t, system, seed, &n)
				cells, points := p.cells()
				cells = cutPrune(cells, rand.New(rand.NewPCG(seed, 1)))
				for _, c := range cells {
					p.try(c)
				}
				t.Logf("%d points, %d faults", points, len(cells))
			})
		}
	})
	t.Logf("faults: %v: %d comparisons of a point with the truth, %d of them after a restore by virtbackup; wrong: %d",
		&n, n.compared.Load(), n.restored.Load(), n.wrong.Load())
}

// cells asks the program for the points of each scenario.
func (p *pruned) cells() (cells []pruneCell, points int) {
	p.T.Helper()
	for i := range pruneScenarios {
		s := &pruneScenarios[i]
		all := p.trace(s)
		points += len(all)
		for _, point := range all {
			for _, way := range []string{kill, term, fails, noSpace, crash} {
				cells = append(cells, pruneCell{s, p.system, point, way})
			}
		}
		p.T.Logf("%s: %d points: %s", s.name, len(all), strings.Join(all, ", "))
		if len(all) == 0 {
			p.T.Errorf("%s: no points", s.name)
		}
	}
	return cells, points
}

// cutPrune is cut for the cells of prune: some of all, in any way and order.
func cutPrune(cells []pruneCell, r *rand.Rand) []pruneCell {
	r.Shuffle(len(cells), func(i, j int) { cells[i], cells[j] = cells[j], cells[i] })
	switch only := os.Getenv("VIRTBACKUP_FAULTS"); {
	case testsite.AllFaults():
		return cells
	case only != "":
		return slices.DeleteFunc(cells, func(c pruneCell) bool { return !strings.HasPrefix(c.place(), only) })
	}
	return cells[:min(len(cells), pruneCut)]
}

// pruneCut is how many faults there are on each file system in make test.
const pruneCut = 4
