package faults

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// filled is a way to break a prune: another process takes all the space that is left, at a
// point or, with none, before it begins.
const filled = "filled"

// A file system that fills up in the middle of a prune stops it, and changes nothing but what
// has been hidden or merged by then. Once there is space again, the next run leads to where an
// undisturbed one does. One that is full from the start is no different: what nobody needs goes.
func TestFaultPruneOnAFullFileSystem(t *testing.T) {
	t.Parallel()
	seed := testsite.NewSeed(t)
	for _, system := range []string{"tmpfs", "ext4", "xfs"} {
		t.Run(system, func(t *testing.T) {
			t.Parallel()
			p := newPruned(t, system, seed, new(numbers))
			s := &pruneScenarios[0]
			points := fillPoints(p.trace(s), rand.New(rand.NewPCG(seed, 1)))
			said := 0
			for _, point := range points {
				r := p.disturb(pruneCell{s, system, point, filled}, func() testdomain.Result { return p.filledAt(point, s.args) })
				if strings.Contains(r.Stderr, "no space left on device") || strings.Contains(r.Stderr, "that needs") {
					said++
				}
			}
			if said == 0 {
				t.Error("no run says that there is no space left")
			}
			t.Logf("%d runs without space, %d said so", len(points), said)
		})
	}
}

// fillPoints are the points at which the file system fills up: of a cut those where a merge
// begins, one behind it, and before all.
func fillPoints(traced []string, rng *rand.Rand) []string {
	of := func(starts ...string) []string {
		return slices.DeleteFunc(slices.Clone(traced), func(point string) bool { return !with(starts...)(point) })
	}
	if testsite.AllFaults() {
		return append(of("write image", "clone", "fsync vd", "merge: ", "hide before", "flatten"), "")
	}
	later := of("write image", "clone", "fsync vd", "merge: ", "hide before")
	return []string{of("write image", "clone file")[0], later[rng.IntN(len(later))], ""}
}

// filledAt runs a command, and fills the file system at a point of it.
func (p *pruned) filledAt(point string, args []string) testdomain.Result {
	p.T.Helper()
	filler := filepath.Join(p.Dir, "filler")
	defer func() {
		if err := os.Remove(filler); err != nil {
			p.T.Error(err)
		}
	}()
	if point == "" {
		fillUp(p.T, filler)
		return p.command("", nil, args)
	}
	program := p.Program
	program.Binary = testdomain.FaultyBinary(p.T)
	program.Env = append(slices.Clone(program.Env), "VIRTBACKUP_FAULT="+point+":pause")
	running := program.Start(p.T, args...)
	testsite.AwaitStopped(p.T, running)
	fillUp(p.T, filler)
	running.Signal(syscall.SIGCONT)
	return running.Wait()
}

// fillUp takes all the space of a file system.
func fillUp(t *testing.T, filler string) {
	t.Helper()
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	at := int64(0)
	for step := int64(1 << 30); step >= 4096; {
		if unix.Fallocate(int(f.Fd()), 0, at, step) == nil {
			at += step
		} else {
			step /= 2
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}
