package faults

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

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// trace lists the points of interest of a scenario that is not broken further.
func (m *matrix) trace(s *scenario) (points []string) {
	m.T.Helper()
	m.arrange(s)
	defer m.end(s)
	file := filepath.Join(m.Dir, "trace")
	m.run(s, s.faults, "VIRTBACKUP_FAULT_TRACE="+file)
	text, err := os.ReadFile(file)
	if err != nil {
		m.T.Fatal(err)
	}
	if err := os.Remove(file); err != nil {
		m.T.Fatal(err)
	}
	for p := range strings.Lines(after(string(text), s.faults)) {
		if p = strings.TrimSuffix(p, "\n"); s.tested(p) {
			points = append(points, p)
		}
	}
	return points
}

// end starts again after a run whose truth was not kept.
func (m *matrix) end(s *scenario) {
	m.T.Helper()
	if s.off {
		m.Start()
	}
	m.begin()
}

// matrix is a domain that is backed up repeatedly.
type matrix struct {
	*testsite.Site
	*rand.Rand
	*numbers
	tries int
	// uncovered: a disk of the newest point was refused a bitmap, so that the next is compared.
	uncovered bool
}

// newMatrix starts the domain of a matrix. One that is to be started again has no extras.
func newMatrix(t *testing.T, seed uint64, n *numbers, off bool) *matrix {
	t.Helper()
	const odd = 6<<20 + 37*512 // no multiple of any cluster size
	start := testdomain.NewWithExtras
	if off {
		start = testdomain.New
	}
	m := &matrix{Site: testsite.New(t, start(t, testdomain.Disk{Target: "vda", Size: 12 << 20}, testdomain.Disk{Target: "vdb", Size: odd})), Rand: newRand(seed), numbers: n}
	m.begin()
	return m
}

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 2)) }

// begin starts again with no repository and no checkpoint.
func (m *matrix) begin() {
	m.T.Helper()
	for _, c := range m.Checkpoints() {
		testdomain.Virsh(m.T, "checkpoint-delete", m.Name, c)
	}
	if err := os.RemoveAll(m.Repo); err != nil {
		m.T.Fatal(err)
	}
	for _, p := range m.Points {
		m.forget(p)
	}
	m.Points = nil
}

// forget removes the truth of a removed point.
func (m *matrix) forget(p testsite.Point) {
	m.T.Helper()
	for _, raw := range p.Truth {
		if err := os.Remove(raw); err != nil {
			m.T.Fatal(err)
		}
	}
}

// drop removes the newest complete point; the one that is being made does not depend on it.
func (m *matrix) drop() {
	m.T.Helper()
	last := len(m.Points) - 1
	p := m.Points[last]
	if err := os.RemoveAll(filepath.Join(m.Repo, m.Name, p.ID)); err != nil {
		m.T.Fatal(err)
	}
	m.forget(p)
	m.Points = m.Points[:last]
}

// longest is the number of points after which a new chain begins: all of them
// are compared after each fault.
const longest = 6

// arrange prepares the start of a scenario: at least one point.
func (m *matrix) arrange(s *scenario) {
	m.T.Helper()
	if len(m.Points) > longest {
		m.begin()
	}
	if len(m.Points) == 0 {
		m.change()
		m.Init()
		m.keep("full")
	}
	if s.prepare != nil {
		m.change()
		if s.off {
			m.Destroy()
		}
		s.prepare(m)
		if s.off {
			m.Start()
		}
	}
	if s.paused != nil { // two points side by side; the newer will be removed
		m.change()
		m.keep("inc")
	}
	m.change()
	if s.off {
		m.Destroy()
	}
}

// change writes to both disks: data in several buffers, zeros, discards.
func (m *matrix) change() {
	m.T.Helper()
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
	m.T.Helper()
	m.BackUp(0, kind, args...)
}

// run runs a scenario with faults.
func (m *matrix) run(s *scenario, faults string, env ...string) testdomain.Result {
	m.T.Helper()
	args := s.args
	if s.paused != nil {
		args = append(slices.Clone(args), "--since", m.Points[len(m.Points)-2].ID)
	}
	p := m.StartBroken(faults, env, args...)
	if s.paused != nil {
		testsite.AwaitStopped(m.T, p)
		s.paused(m)
		p.Signal(syscall.SIGCONT)
	}
	return p.Wait()
}

// try breaks a run, checks all, runs again, and checks all.
func (m *matrix) try(c cell) {
	m.T.Helper()
	m.tries++
	m.of(c.way).Add(1)
	m.T.Logf("--- %s", c)
	m.arrange(c.scenario)
	truth := m.Truths()
	before := m.Footprint()
	r := m.run(c.scenario, strings.TrimPrefix(c.faults+","+c.point+":"+c.way, ","))
	added := m.keepListed(c, r, truth)
	m.uncovered = added && c.way == fails && strings.HasPrefix(c.point, "add bitmap ")
	// With 3 it has said what it could not do, and leaves it to the next run; likewise if the
	// undo of a checkpoint fails.
	leaves := c.leaves || (c.way == fails || c.way == crash) && strings.HasPrefix(c.point, "delete checkpoint before") ||
		c.way == crash && with("undo ", "retire before", "remove bitmap before", // an undo that panics is not done; the others are
			"unlocked", "define checkpoint before", "step checkpoint before")(c.point)
	if c.way != kill && (r.Code == 0 || r.Code != 3 && !leaves) {
		m.wantNothingLeft(c.String())
	}
	same := c.way != kill && r.Code != 0 && !added && !leaves && c.paused == nil
	if after := m.Footprint(); same && after != before {
		m.T.Errorf("%s: it has changed something: before\n%s\nafter\n%s", c, before, after)
	}
	m.compareAll(c)
	if c.off && m.tries%2 == 0 {
		m.again(c)
		m.wantBitmaps(c.String())
	}
	if c.off {
		m.Start() // at once
	}
	m.change()
	m.again(c)
}

// wantBitmaps checks that the images of a domain that is off have the bitmaps of the points'
// checkpoints, and no others.
func (m *matrix) wantBitmaps(where string) {
	m.T.Helper()
	for _, d := range m.Disks {
		info := testdomain.Tool(m.T, "qemu-img", "info", d.Source)
		want := 0
		for _, c := range m.Checkpoints() {
			doc := testdomain.Virsh(m.T, "checkpoint-dumpxml", m.Name, c, "--no-domain")
			want += strings.Count(doc, fmt.Sprintf("name='%s' checkpoint='bitmap'", d.Target))
		}
		if got := strings.Count(info, "granularity:"); got != want || strings.Contains(info, "in-use") {
			m.T.Errorf("%s: %s has %d bitmaps, want %d: %s", where, d.Target, got, want, info)
		}
	}
}

// keepListed records the point that a broken run has listed. A run may list one only if it
// says so, or was killed before it could.
func (m *matrix) keepListed(c cell, r testdomain.Result, truth map[string]string) bool {
	m.T.Helper()
	added := m.added()
	done := r.Code == 0 || r.Code == 3
	if killed := r.Code == 128+int(syscall.SIGKILL); killed != (c.way == kill) {
		m.T.Fatalf("%s: exit %d\n%s", c, r.Code, r.Stderr)
	}
	if panicked := strings.Contains(r.Stderr, "internal error: fault: "); panicked != (r.Code == 70) {
		m.T.Errorf("%s: exit %d\n%s", c, r.Code, r.Stderr)
	}
	// A panic is a bug, and the exit status is 70 whatever was done before.
	silent := c.way == kill || c.way == crash
	if len(added) > 1 || done && len(added) != 1 || !done && !silent && len(added) > 0 {
		m.T.Fatalf("%s: exit %d, and %d points are new\n%s", c, r.Code, len(added), r.Stderr)
	}
	if len(added) == 0 {
		m.forget(testsite.Point{Truth: truth})
		return false
	}
	m.Points = append(m.Points, testsite.Point{Manifest: added[0], Truth: truth})
	return true
}

// added returns the points that virtbackup lists and that are new.
func (m *matrix) added() (added []manifest.Manifest) {
	m.T.Helper()
	if _, err := os.Stat(filepath.Join(m.Repo, "repository.json")); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	r := m.Program.Run(m.T, "list", "--json")
	var listed []manifest.Manifest
	if err := json.Unmarshal([]byte(r.Stdout), &listed); err != nil || r.Code != 0 {
		m.T.Fatalf("list: exit %d, %v\n%s%s", r.Code, err, r.Stdout, r.Stderr)
	}
	for _, l := range listed {
		if !slices.ContainsFunc(m.Points, func(p testsite.Point) bool { return p.ID == l.ID }) {
			added = append(added, l)
		}
	}
	if want := len(m.Points) + len(added); len(listed) != want {
		m.T.Fatalf("%d points are listed, want at least %d", len(listed), want)
	}
	return added
}

// wantNothingLeft checks that only the points and their checkpoints are there.
func (m *matrix) wantNothingLeft(where string) {
	m.T.Helper()
	var names []string
	for _, p := range m.Points {
		if p.Checkpoint != "" {
			names = append(names, p.Checkpoint)
		}
	}
	got := m.Checkpoints()
	slices.Sort(got)
	slices.Sort(names)
	if !slices.Equal(got, names) {
		m.T.Errorf("%s: the checkpoints are %v, want %v", where, got, names)
	}
	if m.HasJob() {
		m.T.Errorf("%s: a job is left", where)
	}
	hidden, _ := filepath.Glob(m.Repo + "/*/.*")
	hidden = slices.DeleteFunc(hidden, func(f string) bool { return filepath.Base(f) == ".mark-lost" })
	run, _ := filepath.Glob(fmt.Sprintf("/var/lib/libvirt/qemu/virtbackup/*%.8s*", m.UUID))
	if left := append(hidden, run...); len(left) > 0 {
		m.T.Errorf("%s: left: %v", where, left)
	}
}

// compareAll compares every point with its truth.
func (m *matrix) compareAll(c cell) {
	m.T.Helper()
	for _, p := range m.Points {
		m.compareOne(c.String(), p)
	}
}

func (m *matrix) compareOne(where string, p testsite.Point) {
	m.T.Helper()
	m.compared.Add(1)
	for _, d := range p.Disks {
		image := m.Image(p.Manifest, d.Target)
		if err := testdomain.TryTool(m.T, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, p.Truth[d.Target]); err != nil {
			m.wrong.Add(1)
			m.T.Errorf("%s: %s of %s is wrong: %v", where, d.Target, p.ID, err)
		}
	}
}

// again makes the next point, which must succeed as usual.
func (m *matrix) again(c cell) {
	m.T.Helper()
	kind := "inc"
	if len(m.Points) == 0 {
		kind = "full"
		m.Init()
	}
	if m.uncovered {
		m.uncovered = false
		m.BackUp(3, kind)
		m.compareOne(c.String(), m.Points[len(m.Points)-1])
	}
	m.keep(kind)
	p := m.Points[len(m.Points)-1]
	testsite.WantKinds(m.T, p.Manifest, fmt.Sprintf("vda %s, vdb %s", kind, kind))
	where := c.String() + ", and the run after it"
	m.wantNothingLeft(where)
	m.compareOne(where, p)
	for _, d := range p.Disks {
		testdomain.CheckImage(m.T, m.Image(p.Manifest, d.Target))
	}
	m.restored.Add(1)
	m.CheckRestored(p, []string{"qcow2", "raw"}[m.tries%2])
}
