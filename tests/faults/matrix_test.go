package faults

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testsite"
)

// scenario is a run that is broken at each of its points in turn.
type scenario struct {
	name string
	args []string
	// prepare makes the state that the run finds.
	prepare func(*matrix)
	// leaves says that prepare leaves something for a run to clean up.
	leaves bool
	// faults lead to the scenario: the run breaks by them before it is broken at the point
	// under test.
	faults string
	// paused is called while a fault "pause" holds the run.
	paused func(*matrix)
	// off says that the domain is shut off.
	off bool
	// tested says whether a point is of interest: most belong to other scenarios.
	tested func(point string) bool
}

var scenarios = []scenario{
	{name: "inc", args: []string{"inc"}, tested: func(string) bool { return true }},
	// Cleaning up after a killed run is broken, too.
	{name: "recovery", args: []string{"inc"}, tested: with("recover ", "delete checkpoint "),
		prepare: func(m *matrix) { m.StartBroken("copy buffer#2:kill", nil, "inc").Wait() }, leaves: true},
	// Undoing what a run has begun is broken, too.
	{name: "undo", args: []string{"inc"}, faults: "copy buffer#2:error", tested: with("undo ", "delete checkpoint ")},
	// A point is removed during the run, and its checkpoint is no longer needed.
	{name: "retire", args: []string{"inc"}, faults: "step retire before:pause", tested: with("retire ", "delete checkpoint ", "step retire"),
		paused: func(m *matrix) { m.drop() }},
	{name: "off", args: []string{"inc"}, off: true, tested: with("step ", "add bitmap ", "locked", "storage daemon started", "disks served", "copy buffer#1",
		"seal: rename ", "unlocked", "define checkpoint ", "retire ", "undo ")},
	{name: "recovery off", args: []string{"inc"}, off: true, tested: with("recover ", "remove bitmap "),
		prepare: func(m *matrix) { m.StartBroken("disks served:kill", nil, "inc").Wait() }, leaves: true},
	{name: "undo off", args: []string{"inc"}, off: true, faults: "copy buffer#1:error", tested: with("undo ", "remove bitmap ")},
	{name: "first full", args: []string{"full"}, prepare: func(m *matrix) { m.begin() },
		tested: with("step open ", "step lock ", "step reserve ", "step begin ", "step copy ", "seal: ", "undo ", "fsync manifest.json ")},
}

func with(starts ...string) func(string) bool {
	return func(point string) bool {
		return slices.ContainsFunc(starts, func(s string) bool { return strings.HasPrefix(point, s) })
	}
}

// The ways to break a run.
const (
	kill    = "kill"
	term    = "term"
	fails   = "error"
	noSpace = "full" // an error that says that the disk is full
	crash   = "panic"
)

// cell is one of the matrix.
type cell struct {
	*scenario
	point, way string
}

// String says what was broken, and where.
func (c cell) String() string { return fmt.Sprintf("%s at %q of %s", c.way, c.point, c.name) }

// At every point of a run, virtbackup is killed, ended by a signal, given an I/O
// error, and made to panic. Every point that is listed then is what the disks were; the next
// run succeeds and is right; nothing is left. VIRTBACKUP_SEED repeats the cut.
func TestFaultMatrix(t *testing.T) {
	t.Parallel()
	seed := testsite.NewSeed(t)
	cells, points := enumerate(t)
	cells = cut(cells, rand.New(rand.NewPCG(seed, 1)))
	var n numbers
	// A run mostly waits for libvirtd and for the disk.
	const lanes = 3
	t.Run("lanes", func(t *testing.T) {
		for lane := range lanes {
			t.Run(fmt.Sprint(lane), func(t *testing.T) {
				t.Parallel()
				m, off := newMatrix(t, seed+uint64(lane), &n, false), newMatrix(t, seed+uint64(lane), &n, true)
				for i := lane; i < len(cells); i += lanes {
					if cells[i].off {
						off.try(cells[i])
					} else {
						m.try(cells[i])
					}
				}
			})
		}
	})
	t.Logf("%d of %d points, %d faults (%v): %d comparisons of a point with the truth, %d of them after a restore by virtbackup; wrong: %d",
		len(places(cells)), points, len(cells), &n, n.compared.Load(), n.restored.Load(), n.wrong.Load())
}

// numbers are counted over all lanes.
type numbers struct {
	kill, term, fails, noSpace, crash, compared, restored, wrong atomic.Int64
}

func (n *numbers) of(way string) *atomic.Int64 {
	return map[string]*atomic.Int64{kill: &n.kill, term: &n.term, fails: &n.fails, noSpace: &n.noSpace, crash: &n.crash}[way]
}

// String says how many faults of each way there were.
func (n *numbers) String() string {
	return fmt.Sprintf("%d SIGKILL, %d SIGTERM, %d I/O errors, %d full disks, %d panics",
		n.kill.Load(), n.term.Load(), n.fails.Load(), n.noSpace.Load(), n.crash.Load())
}

// enumerate asks the program for the points of each scenario.
func enumerate(t *testing.T) (cells []cell, points int) {
	t.Helper()
	m, off := newMatrix(t, 0, new(numbers), false), newMatrix(t, 0, new(numbers), true)
	for i := range scenarios {
		s, of := &scenarios[i], m
		if s.off {
			of = off
		}
		all := of.trace(s)
		points += len(all)
		for _, p := range all {
			for _, w := range []string{kill, term, fails, crash} {
				cells = append(cells, cell{s, p, w})
			}
		}
		t.Logf("%s: %d points: %s", s.name, len(all), strings.Join(all, ", "))
		if len(all) == 0 {
			t.Errorf("%s: no points", s.name)
		}
	}
	return cells, points
}

// after is the part of a trace after the fault that leads to the scenario.
func after(trace, faults string) string {
	if faults == "" {
		return trace
	}
	name := faults[:strings.LastIndex(faults, ":")]
	if !strings.Contains(name, "#") {
		name += "#1"
	}
	_, rest, _ := strings.Cut(trace, name+"\n")
	return rest
}

// cut selects one of 32 of the points, with one way for each, in rotation; or all, if they are
// asked for; or, with VIRTBACKUP_FAULTS='retire/step,undo/', those that begin so.
func cut(cells []cell, r *rand.Rand) []cell {
	if testsite.AllFaults() {
		return cells
	}
	if only := os.Getenv("VIRTBACKUP_FAULTS"); only != "" {
		return slices.DeleteFunc(cells, func(c cell) bool { return !with(strings.Split(only, ",")...)(c.place()) })
	}
	names := places(cells)
	r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	var some []cell
	for i, name := range names[:len(names)/32] {
		of := slices.DeleteFunc(slices.Clone(cells), func(c cell) bool { return c.place() != name })
		some = append(some, of[i%len(of)])
	}
	return some
}

// place is a point of a scenario.
func (c cell) place() string { return c.name + "/" + c.point }

func places(cells []cell) (names []string) {
	for _, c := range cells {
		if !slices.Contains(names, c.place()) {
			names = append(names, c.place())
		}
	}
	return names
}
