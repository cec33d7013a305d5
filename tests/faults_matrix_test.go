package tests

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// trace lists the points of interest of a scenario that is not broken any
// further.
func (m *matrix) trace(s *scenario) (points []string) {
	m.t.Helper()
	m.arrange(s)
	file := filepath.Join(m.Dir, "trace")
	m.run(s, s.faults, "VIRTBACKUP_FAULT_TRACE="+file)
	text, err := os.ReadFile(file)
	if err != nil {
		m.t.Fatal(err)
	}
	if err := os.Remove(file); err != nil {
		m.t.Fatal(err)
	}
	for p := range strings.Lines(after(string(text), s.faults)) {
		if p = strings.TrimSuffix(p, "\n"); s.tested(p) {
			points = append(points, p)
		}
	}
	m.begin() // the truth of this run was not kept
	return points
}

// matrix is a domain that is backed up over and over.
type matrix struct {
	*site
	*rand.Rand
	*numbers
	tries int
}

func newMatrix(t *testing.T, seed uint64, n *numbers) *matrix {
	t.Helper()
	const odd = 6<<20 + 37*512 // no multiple of any cluster size
	d := testdomain.New(t, testdomain.Disk{Target: "vda", Size: 12 << 20}, testdomain.Disk{Target: "vdb", Size: odd})
	m := &matrix{site: newSite(t, d), Rand: newRand(seed), numbers: n}
	m.begin()
	return m
}

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 2)) }

// begin starts again with no repository and no checkpoint.
func (m *matrix) begin() {
	m.t.Helper()
	for _, c := range m.Checkpoints() {
		testdomain.Virsh(m.t, "checkpoint-delete", m.Name, c)
	}
	if err := os.RemoveAll(m.repo); err != nil {
		m.t.Fatal(err)
	}
	for _, p := range m.points {
		m.forget(p)
	}
	m.points = nil
}

// forget removes the truth of a point that is no more.
func (m *matrix) forget(p truePoint) {
	m.t.Helper()
	for _, raw := range p.truth {
		if err := os.Remove(raw); err != nil {
			m.t.Fatal(err)
		}
	}
}

// drop removes the newest point but for the one that is being made, which does
// not depend on it.
func (m *matrix) drop() {
	m.t.Helper()
	last := len(m.points) - 1
	p := m.points[last]
	if err := os.RemoveAll(filepath.Join(m.repo, m.Name, p.ID)); err != nil {
		m.t.Fatal(err)
	}
	m.forget(p)
	m.points = m.points[:last]
}

// longest is the number of points after which a new chain begins: all of them
// are compared after each fault.
const longest = 6

// arrange makes what a scenario begins with: at least one point.
func (m *matrix) arrange(s *scenario) {
	m.t.Helper()
	if len(m.points) > longest {
		m.begin()
	}
	if len(m.points) == 0 {
		m.change()
		m.init()
		m.keep("full")
	}
	if s.prepare != nil {
		m.change()
		s.prepare(m)
	}
	if s.paused != nil { // two points side by side; the newer will go
		m.change()
		m.keep("inc")
	}
	m.change()
}

// change writes to both disks: data in several buffers, zeros, discards.
func (m *matrix) change() {
	m.t.Helper()
	for _, d := range m.Disks {
		var commands []string
		for range 3 {
			commands = append(commands,
				fmt.Sprintf("write -P %#x %d %d", 1+m.IntN(255), m.Int64N(d.Size-2<<20), 1+m.IntN(1<<20)),
				fmt.Sprintf("write -z -u %d %d", m.Int64N(d.Size-1<<20), 1+m.IntN(200<<10)))
		}
		commands = append(commands, fmt.Sprintf("discard %d 64k", m.Int64N(d.Size/65536)<<16), fmt.Sprintf("write -P %#x %d 512", 1+m.IntN(255), d.Size-512))
		m.IO(d.Target, commands...)
	}
}

// keep makes a point undisturbed.
func (m *matrix) keep(kind string, args ...string) {
	m.t.Helper()
	m.backUp(0, kind, args...)
}

// run does what a scenario does, broken as faults say.
func (m *matrix) run(s *scenario, faults string, env ...string) testdomain.Result {
	m.t.Helper()
	args := s.args
	if s.paused != nil {
		args = append(slices.Clone(args), "--since", m.points[len(m.points)-2].ID)
	}
	p := m.startBroken(faults, env, args...)
	if s.paused != nil {
		awaitStopped(m.t, p)
		s.paused(m)
		p.Signal(syscall.SIGCONT)
	}
	return p.Wait()
}

// startBroken starts a run of the domain, KIND and its options, with faults.
func (s *site) startBroken(faults string, env []string, args ...string) *testdomain.Process {
	s.t.Helper()
	program := s.program
	program.Binary = testdomain.FaultyBinary(s.t)
	program.Env = append(append(slices.Clone(program.Env), "VIRTBACKUP_FAULT="+faults), env...)
	return program.Start(s.t, append([]string{"--json", args[0], s.Name}, args[1:]...)...)
}

// awaitStopped waits until a process has been stopped, by the fault "pause".
func awaitStopped(t *testing.T, p *testdomain.Process) {
	t.Helper()
	await(t, "stopped process", time.Millisecond, func() bool {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Cmd.Process.Pid))
		if err != nil {
			return false
		}
		_, rest, _ := strings.Cut(string(text), ") ")
		if strings.HasPrefix(rest, "Z") {
			t.Fatalf("it has ended and was to be stopped: exit %d", p.Wait().Code)
		}
		return strings.HasPrefix(rest, "T")
	})
}

// try breaks a run, checks all, runs again, and checks all.
func (m *matrix) try(c cell) {
	m.t.Helper()
	m.tries++
	m.of(c.way).Add(1)
	m.t.Logf("--- %s", c)
	m.arrange(c.scenario)
	truth := m.truths()
	before := m.state()
	r := m.run(c.scenario, strings.TrimPrefix(c.faults+","+c.point+":"+c.way, ","))
	added := m.keepListed(c, r, truth)
	// With 3 it has said what it could not do: the next run has to. So it has where the
	// undo of a checkpoint fails.
	leaves := c.leaves || (c.way == fails || c.way == crash) && strings.HasPrefix(c.point, "delete checkpoint before") ||
		c.way == crash && with("undo ", "retire before")(c.point) // what panics in an undo is not undone; the others are
	if c.way != kill && (r.Code == 0 || r.Code != 3 && !leaves) {
		m.wantNothingLeft(c.String())
	}
	same := c.way != kill && r.Code != 0 && !added && !leaves && c.paused == nil
	if after := m.state(); same && after != before {
		m.t.Errorf("%s: it has changed something: before\n%s\nafter\n%s", c, before, after)
	}
	m.compareAll(c)
	m.change()
	m.again(c)
}

// keepListed takes note of the point that a broken run has listed. It may only
// where it says so, or where it was killed before it could.
func (m *matrix) keepListed(c cell, r testdomain.Result, truth map[string]string) bool {
	m.t.Helper()
	added := m.added()
	done := r.Code == 0 || r.Code == 3
	if killed := r.Code == 128+int(syscall.SIGKILL); killed != (c.way == kill) {
		m.t.Fatalf("%s: exit %d\n%s", c, r.Code, r.Stderr)
	}
	if panicked := strings.Contains(r.Stderr, "internal error: fault: "); panicked != (r.Code == 70) {
		m.t.Errorf("%s: exit %d\n%s", c, r.Code, r.Stderr)
	}
	// A panic is a bug, and ends with 70 whatever has been done before.
	silent := c.way == kill || c.way == crash
	if len(added) > 1 || done && len(added) != 1 || !done && !silent && len(added) > 0 {
		m.t.Fatalf("%s: exit %d, and %d points are new\n%s", c, r.Code, len(added), r.Stderr)
	}
	if len(added) == 0 {
		m.forget(truePoint{truth: truth})
		return false
	}
	m.points = append(m.points, truePoint{added[0], truth})
	return true
}

// added lists the points that virtbackup lists and nobody has seen before.
func (m *matrix) added() (added []manifest.Manifest) {
	m.t.Helper()
	if _, err := os.Stat(filepath.Join(m.repo, "repository.json")); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	r := m.program.Run(m.t, "list", "--json")
	var listed []manifest.Manifest
	if err := json.Unmarshal([]byte(r.Stdout), &listed); err != nil || r.Code != 0 {
		m.t.Fatalf("list: exit %d, %v\n%s%s", r.Code, err, r.Stdout, r.Stderr)
	}
	for _, l := range listed {
		if !slices.ContainsFunc(m.points, func(p truePoint) bool { return p.ID == l.ID }) {
			added = append(added, l)
		}
	}
	if want := len(m.points) + len(added); len(listed) != want {
		m.t.Fatalf("%d points are listed, want at least %d", len(listed), want)
	}
	return added
}

// wantNothingLeft sees that nothing is there but the points and their
// checkpoints.
func (m *matrix) wantNothingLeft(where string) {
	m.t.Helper()
	var names []string
	for _, p := range m.points {
		if p.Checkpoint != "" {
			names = append(names, p.Checkpoint)
		}
	}
	got := m.Checkpoints()
	slices.Sort(got)
	slices.Sort(names)
	if !slices.Equal(got, names) {
		m.t.Errorf("%s: the checkpoints are %v, want %v", where, got, names)
	}
	if m.HasJob() {
		m.t.Errorf("%s: a job is left", where)
	}
	hidden, _ := filepath.Glob(m.repo + "/*/.*")
	hidden = slices.DeleteFunc(hidden, func(f string) bool { return filepath.Base(f) == ".mark-lost" })
	run, _ := filepath.Glob(fmt.Sprintf("/var/lib/libvirt/qemu/virtbackup/*%.8s*", m.UUID))
	if left := append(hidden, run...); len(left) > 0 {
		m.t.Errorf("%s: left: %v", where, left)
	}
}

// compareAll compares every point with its truth.
func (m *matrix) compareAll(c cell) {
	m.t.Helper()
	for _, p := range m.points {
		m.compareOne(c.String(), p)
	}
}

func (m *matrix) compareOne(where string, p truePoint) {
	m.t.Helper()
	m.compared.Add(1)
	for _, d := range p.Disks {
		image := m.image(p.Manifest, d.Target)
		if err := testdomain.TryTool(m.t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, p.truth[d.Target]); err != nil {
			m.wrong.Add(1)
			m.t.Errorf("%s: %s of %s is wrong: %v", where, d.Target, p.ID, err)
		}
	}
}

// again makes the next point, which has to succeed as if nothing had been.
func (m *matrix) again(c cell) {
	m.t.Helper()
	kind := "inc"
	if len(m.points) == 0 {
		kind = "full"
		m.init()
	}
	m.keep(kind)
	p := m.points[len(m.points)-1]
	wantKinds(m.t, p.Manifest, fmt.Sprintf("vda %s, vdb %s", kind, kind))
	where := c.String() + ", and the run after it"
	m.wantNothingLeft(where)
	m.compareOne(where, p)
	for _, d := range p.Disks {
		testdomain.CheckImage(m.t, m.image(p.Manifest, d.Target))
	}
	m.restored.Add(1)
	m.checkRestored(p, []string{"qcow2", "raw"}[m.tries%2])
}
