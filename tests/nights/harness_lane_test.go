package nights

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/tests/fakelibvirt"
	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// numbers are counted over all lanes.
type numbers struct {
	nights, points, backupKills, pruneKills, compared, restored, verified, undone, merged, cloned, wrong atomic.Int64
}

func (n *numbers) String() string {
	return fmt.Sprintf("%d nights, %d points, %d kills of a backup, %d of a prune, %d merges (%d by clones), %d points undone; %d comparisons of a point with the truth by qemu-img, %d restores, %d verifications; wrong: %d",
		n.nights.Load(), n.points.Load(), n.backupKills.Load(), n.pruneKills.Load(), n.merged.Load(), n.cloned.Load(), n.undone.Load(), n.compared.Load(), n.restored.Load(), n.verified.Load(), n.wrong.Load())
}

// point is what the test knows of a point.
type point struct {
	disks    map[string]truth
	period   int
	identity string
	at       time.Time
}

// lane is a domain with a policy, on a file system.
type lane struct {
	*programs
	t      *testing.T
	seed   uint64
	n      *numbers
	policy policy
	fs     *filesystem
	dir    string
	guest  *guest
	clock  time.Time
	night  int
	points map[string]point
	// protected are those that the test has protected.
	protected map[string]bool
	// verified is the newest point of the last verification; unsure says that a prune was
	// killed since, which may have forgotten that.
	verified string
	unsure   bool
	calm     bool // nothing is killed
}

func newLane(t *testing.T, fs *filesystem, p policy, seed uint64, n *numbers) *lane {
	t.Helper()
	dir := testdomain.TempDir(t)
	for _, sub := range []string{"domain", "run", "truth"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	l := &lane{t: t, seed: seed, n: n, policy: p, fs: fs, dir: dir,
		programs: newPrograms(t, dir, filepath.Join(fs.dir, "repo")),
		guest:    &guest{dir: filepath.Join(dir, "domain"), truths: filepath.Join(dir, "truth"), disks: map[string]*guestDisk{}},
		clock:    time.Date(2024, 1, 1, 0, 30, 0, 0, time.UTC), points: map[string]point{}, protected: map[string]bool{}}
	l.do(func(d *fakelibvirt.Domain) error {
		r := l.random()
		if err := l.guest.attach(r, d, "vda", randomSize(r, smallest, largest)); err != nil {
			return err
		}
		return l.guest.attach(r, d, "vdb", randomSize(r, smallest, largest/2))
	})
	return l
}

// random is that of a night: what a night does depends on the nights before as little as can be.
func (l *lane) random() *rand.Rand { return rand.New(rand.NewPCG(l.seed, uint64(l.night))) }

func (l *lane) do(do func(*fakelibvirt.Domain) error) {
	l.t.Helper()
	if err := l.guest.with(do); err != nil {
		l.fatalf("%v", err)
	}
}

// fatalf ends the test with what was done last, and with what repeats it.
func (l *lane) fatalf(format string, args ...any) {
	l.t.Helper()
	l.n.wrong.Add(1)
	l.t.Fatalf("%s\n\nnight %d: %s\nrepeat with VIRTBACKUP_SEED=%d and -run '%s'; kills at a moment of the clock do not repeat",
		strings.Join(l.log[max(0, len(l.log)-logLines):], "\n"), l.night, fmt.Sprintf(format, args...), l.seed, l.t.Name())
}

func (l *lane) must(err error) {
	l.t.Helper()
	if err != nil {
		l.fatalf("%v", err)
	}
}

// one in n.
func one(r *rand.Rand, n int) bool { return r.IntN(n) == 0 }

// pass lets one night pass.
func (l *lane) pass() {
	l.t.Helper()
	r := l.random()
	l.note("--- night %d, %s", l.night, l.clock.Format(time.DateTime))
	l.backUp(r)
	if one(r, 10) {
		l.clock = l.clock.Add(11 * time.Hour)
		l.backUp(r)
		l.clock = l.clock.Add(-11 * time.Hour)
	}
	l.byHand(r)
	l.prune(r)
	all := readPoints(l.t, l.repo)
	l.compareNewest(all)
	l.forgetRemoved(all)
	l.n.nights.Add(1)
	l.night++
	l.clock = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC).AddDate(0, 0, l.night).Add(time.Duration(r.IntN(90)) * time.Minute)
}

// plan is how a point is made.
type plan struct {
	kind, fallback, exclude string
	zstd                    int
}

func (l *lane) plan(r *rand.Rand, fallback string) plan {
	p := plan{kind: "inc", fallback: fallback}
	switch n := r.IntN(100); {
	case len(l.points) == 0, n < 2:
		p.kind = "full"
	case n < 8:
		p.kind = "diff"
	case n < 12:
		p.kind = "copy"
	case n < 20:
		p.kind = "auto"
	}
	if one(r, 4) {
		p.zstd = 1 + r.IntN(3)
	}
	if one(r, 25) && len(l.guest.disks) > 1 {
		p.exclude = targets[r.IntN(len(targets))]
		if l.guest.disks[p.exclude] == nil {
			p.exclude = ""
		}
	}
	return p
}

// backUp lets a day pass, and makes a point; some tries are killed.
func (l *lane) backUp(r *rand.Rand) {
	l.t.Helper()
	var p plan
	for try := 0; ; try++ {
		var truths map[string]truth
		l.do(func(d *fakelibvirt.Domain) (err error) {
			if try == 0 || one(r, 2) {
				fallback, err := l.guest.day(r, d)
				if err != nil {
					return err
				}
				p = l.plan(r, fallback)
			}
			truths, err = l.guest.take(d)
			return err
		})
		if l.tryBackUp(r, &p, truths, try) {
			return
		}
		l.must(forget(truths))
		l.clock = l.clock.Add(7 * time.Minute)
	}
}

// tryBackUp returns false if there is no new point.
func (l *lane) tryBackUp(r *rand.Rand, p *plan, truths map[string]truth, try int) bool {
	l.t.Helper()
	var kill *rand.Rand
	if try < 4 && len(l.points) > 0 && !l.calm && one(r, 5) {
		kill = r
	}
	done := l.run(kill, "backup", l.backup, "-domain", l.guest.dir, "-run", filepath.Join(l.dir, "run"), "-repo", l.repo,
		"-now", l.clock.Format(time.RFC3339), "-kind", p.kind, "-fallback", p.fallback, "-exclude", p.exclude, "-zstd", fmt.Sprint(p.zstd))
	if done.killed {
		l.n.backupKills.Add(1)
	}
	for _, q := range listed(readPoints(l.t, l.repo)) {
		if _, known := l.points[q.ID]; known {
			continue
		}
		if p.exclude != "" {
			l.must(forget(map[string]truth{"": truths[p.exclude]}))
			delete(truths, p.exclude)
		}
		l.points[q.ID] = point{truths, l.guest.period - 1, q.Identity, q.Time}
		l.n.points.Add(1)
		l.compare(q)
		if !done.killed {
			l.checkpoints()
		}
		return true
	}
	switch {
	case done.killed:
	case done.code == 0:
		l.fatalf("a backup has succeeded, and there is no new point")
	case p.kind == "diff" && strings.Contains(done.stderr, "to start from"):
		p.kind = "inc"
	default:
		l.fatalf("a backup has failed")
	}
	return false
}

// checkpoints are libvirt's, after a backup: of points that are listed.
func (l *lane) checkpoints() {
	l.t.Helper()
	all := listed(readPoints(l.t, l.repo))
	l.do(func(d *fakelibvirt.Domain) error {
		for _, name := range d.Names() {
			id, identity, _ := strings.Cut(name, ".")
			if p, ok := find(all, id); !ok || p.Identity != identity {
				return fmt.Errorf("libvirt has checkpoint %s, whose point is not listed", name)
			}
		}
		return nil
	})
}

// compare compares a point with the truth, and with what it was called.
func (l *lane) compare(p pointOnDisk) {
	l.t.Helper()
	l.n.compared.Add(1)
	known := l.points[p.ID]
	if err := compare(p, known.disks); err != nil {
		l.fatalf("point %s: %v", p.ID, err)
	}
	if p.Identity != known.identity || !p.Time.Equal(known.at) {
		l.fatalf("point %s is %s of %v, and was %s of %v", p.ID, p.Identity, p.Time, known.identity, known.at)
	}
}

func (l *lane) compareNewest(all []pointOnDisk) {
	l.t.Helper()
	points := listed(all)
	l.compare(points[len(points)-1])
}

// forgetRemoved removes the truth of points that are gone.
func (l *lane) forgetRemoved(all []pointOnDisk) {
	l.t.Helper()
	for id, p := range l.points {
		if _, there := find(all, id); !there {
			l.must(forget(p.disks))
			l.points[id] = point{period: p.period} // no id comes twice
		}
	}
}

// byHand does now and then what people do.
func (l *lane) byHand(r *rand.Rand) {
	l.t.Helper()
	all := readPoints(l.t, l.repo)
	points, gone := listed(all), hidden(all)
	some := points[r.IntN(len(points))]
	switch n := r.IntN(100); {
	case n < 6:
		l.verify()
	case n < 12:
		l.restore(some)
	case n < 16 && len(l.protected) < 4:
		l.ok(l.virtbackup(nil, "protect", "vm1@"+some.ID, "--note", "of a test"))
		l.protected[some.ID] = true
	case n < 21 && len(l.protected) > 0:
		some = points[slices.IndexFunc(points, func(p pointOnDisk) bool { return l.protected[p.ID] })]
		l.ok(l.virtbackup(nil, "unprotect", "vm1@"+some.ID))
		delete(l.protected, some.ID)
	case n < 30 && len(gone) > 0:
		l.undo(r, gone[r.IntN(len(gone))])
	case n < 33 && some.isBase():
		l.materialise(r, some)
	}
}

func (l *lane) ok(done result) {
	l.t.Helper()
	if done.code != 0 {
		l.fatalf("exit %d", done.code)
	}
}

// verify expects that nothing is found.
func (l *lane) verify() {
	l.t.Helper()
	l.ok(l.virtbackup(nil, "verify", "vm1"))
	l.n.verified.Add(1)
	points := listed(readPoints(l.t, l.repo))
	l.verified, l.unsure = points[len(points)-1].ID, false
}

// restore compares what virtbackup restores with the truth.
func (l *lane) restore(p pointOnDisk) {
	l.t.Helper()
	dir := filepath.Join(l.dir, "restored")
	l.ok(l.virtbackup(nil, "restore", "vm1@"+p.ID, "--quiet", "--to", dir, "--format", "raw"))
	l.n.restored.Add(1)
	if err := compareRestored(dir, l.points[p.ID].disks); err != nil {
		l.fatalf("point %s, restored: %v", p.ID, err)
	}
	l.must(os.RemoveAll(dir))
}

// undo lists a hidden point again, and protects it sometimes.
func (l *lane) undo(r *rand.Rand, p pointOnDisk) {
	l.t.Helper()
	l.ok(l.virtbackup(nil, "prune", "vm1", "--undo", p.ID))
	l.n.undone.Add(1)
	again, ok := find(readPoints(l.t, l.repo), p.ID)
	if !ok || again.Hidden {
		l.fatalf("%s is not listed again", p.ID)
	}
	l.compare(again)
	if one(r, 2) && len(l.protected) < 4 {
		l.ok(l.virtbackup(nil, "protect", "vm1@"+p.ID))
		l.protected[p.ID] = true
	}
}

// materialise makes a point standalone.
func (l *lane) materialise(r *rand.Rand, p pointOnDisk) {
	l.t.Helper()
	done := l.killed(r, "prune", "vm1", "--materialise", p.ID)
	again, _ := find(readPoints(l.t, l.repo), p.ID)
	if !done.killed {
		l.ok(done)
		if again.Kind != "full" || again.Parent != "" {
			l.fatalf("%s is a %s with the parent %q", p.ID, again.Kind, again.Parent)
		}
	}
	l.compare(again)
}

// killed runs prune, and kills it now and then.
func (l *lane) killed(r *rand.Rand, args ...string) result {
	l.t.Helper()
	var kill *rand.Rand
	if !l.calm && one(r, 3) {
		kill = r
	}
	done := l.virtbackup(kill, args...)
	if done.killed {
		l.n.pruneKills.Add(1)
		l.unsure = true
	}
	return done
}
