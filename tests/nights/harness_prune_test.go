package nights

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
)

// pruned is what prune --json says, as far as the test needs it.
type pruned struct {
	Points []struct {
		ID      string   `json:"id"`
		Keep    bool     `json:"keep"`
		Reasons []string `json:"reasons"`
	} `json:"points"`
	Merged []struct {
		Point   string `json:"point"`
		Cloned  bool   `json:"cloned"`
		Written int64  `json:"written_bytes"`
	} `json:"merged"`
}

// prune removes points by the policy, and is killed now and then; half of the time the next
// night has to go on.
func (l *lane) prune(r *rand.Rand) {
	l.t.Helper()
	args := append([]string{"prune", "vm1", "--json"}, l.policy.args()...)
	if one(r, 30) {
		args = append(args, "--compact")
	}
	for {
		before := readPoints(l.t, l.repo)
		done := l.killed(r, args...)
		after := readPoints(l.t, l.repo)
		if err := l.missing(before, after); err != nil {
			l.fatalf("%v", err)
		}
		if !done.killed {
			l.ok(done)
			l.must(l.judgePrune(before, after, done))
			return
		}
		points := listed(after)
		for range 2 {
			l.compare(points[r.IntN(len(points))])
		}
		l.compareNewest(after)
		if one(r, 2) {
			return
		}
	}
}

// missing is an error if a point that has to stay is not listed any more.
func (l *lane) missing(before, after []pointOnDisk) error {
	keeps := l.policy.keeps(listed(before), l.protected)
	if l.verified != "" && !l.unsure {
		keeps[l.verified] = true
	}
	for id := range keeps {
		if p, there := find(after, id); !there || p.Hidden {
			return fmt.Errorf("point %s has to stay, and is not listed any more", id)
		}
	}
	return nil
}

// judgePrune checks what a prune that was not disturbed has done.
func (l *lane) judgePrune(before, after []pointOnDisk, done result) error {
	var said pruned
	if err := json.Unmarshal([]byte(done.stdout), &said); err != nil {
		return err
	}
	for _, m := range said.Merged {
		l.n.merged.Add(1)
		if m.Cloned {
			l.n.cloned.Add(1)
		}
	}
	keeps := l.policy.keeps(listed(before), l.protected)
	verified := 0
	for _, p := range said.Points {
		there, ok := find(after, p.ID)
		switch {
		case p.Keep != (ok && !there.Hidden):
			return fmt.Errorf("point %s: prune says keep %v, and it is listed: %v", p.ID, p.Keep, !p.Keep)
		case !p.Keep || keeps[p.ID]:
		case p.ID == l.verified || l.unsure:
			verified++
		default:
			return fmt.Errorf("point %s is kept (%s), and no rule keeps it", p.ID, strings.Join(p.Reasons, ", "))
		}
	}
	if verified > 1 {
		return fmt.Errorf("%d points are kept besides those of the rules", verified)
	}
	if len(said.Points) != len(listed(before)) {
		return fmt.Errorf("prune has decided about %d of %d points", len(said.Points), len(listed(before)))
	}
	if err := l.unneeded(after); err != nil {
		return err
	}
	return l.garbage(after)
}

// unneeded is an error if a hidden point is left that nobody needs.
func (l *lane) unneeded(all []pointOnDisk) error {
	for _, p := range hidden(all) {
		if children(all, p.ID) == 0 {
			return fmt.Errorf("point %s is hidden, and nobody needs it", p.ID)
		}
	}
	return nil
}

// What a prune may leave: superseded data of a quarter of the live data, below each point,
// and 30 hidden points.
const (
	garbageShare = 4
	maxHidden    = 30
)

// metadata is what an image of these sizes has at most besides data, with compressed clusters:
// a header, tables and refcounts.
const metadata = 16 * cluster

// data is how many bytes of data an image has. Of compressed clusters only the length of the
// image says that.
func (d diskOnDisk) data(dir string) (int64, error) {
	features, err := headerField(filepath.Join(dir, d.Image), 72)
	const compressionType = 1 << 3
	if err != nil || features&compressionType == 0 {
		return d.DataBytes, err
	}
	return min(d.DataBytes, max(0, d.ImageBytes-metadata)), nil
}

// garbage is an error if a point, and the hidden ones that it alone needs, take more than is
// promised.
func (l *lane) garbage(all []pointOnDisk) error {
	for _, target := range listed(all) {
		if !target.isBase() {
			continue // never merged
		}
		run := runOf(all, target)
		if len(run) == 1 {
			continue
		}
		if len(run)-1 > maxHidden {
			return fmt.Errorf("%d hidden points are chained below %s", len(run)-1, target.ID)
		}
		total, live, err := l.sizes(all, run)
		if err != nil {
			return err
		}
		if total > live+live/garbageShare {
			return fmt.Errorf("%s and the %d hidden points below it have %d bytes of data, and %d would do", target.ID, len(run)-1, total, live)
		}
	}
	return nil
}

// runOf is a point and the hidden ones that it alone needs, nearest first.
func runOf(all []pointOnDisk, p pointOnDisk) []pointOnDisk {
	run := []pointOnDisk{p}
	for {
		parent, ok := find(all, run[len(run)-1].Parent)
		if !ok || !parent.Hidden || children(all, parent.ID) > 1 {
			return run
		}
		run = append(run, parent)
	}
}

// sizes are the bytes of data that a run has, and how many it needs: both without disks that
// are full in its point, as these stay as they are.
func (l *lane) sizes(all, run []pointOnDisk) (total, live int64, err error) {
	since := -1
	if base, ok := find(all, run[len(run)-1].Parent); ok {
		since = l.points[base.ID].period
	}
	for _, d := range run[0].Disks {
		if d.Kind == "full" {
			continue
		}
		n, err := l.points[run[0].ID].disks[d.Target].live(l.begins(run, d.Target, since))
		if err != nil {
			return 0, 0, err
		}
		live += n
		for _, p := range run {
			i := slices.IndexFunc(p.Disks, func(other diskOnDisk) bool { return other.Target == d.Target })
			if i < 0 {
				break
			}
			n, err := p.Disks[i].data(p.dir)
			if err != nil {
				return 0, 0, err
			}
			total += n
			if p.Disks[i].Kind == "full" {
				break // it begins here
			}
		}
	}
	return total, live, nil
}

// begins is the period that the data of a disk in a run is from: all of it where the disk
// begins within the run.
func (l *lane) begins(run []pointOnDisk, target string, since int) int {
	for _, p := range run {
		for _, d := range p.Disks {
			if d.Target == target && d.Kind == "full" {
				return -1
			}
		}
	}
	return since
}

// space is an error if the file system holds much more than the points that are on disk.
func (l *lane) space(all []pointOnDisk) error {
	const inodes = 16 << 20 // and other tables of the file system, and what is small
	most := int64(inodes)
	for _, p := range all {
		for _, d := range p.Disks {
			most += min(d.DataBytes+metadata, d.ImageBytes) + 2*cluster // for the hash list
		}
	}
	if used := l.fs.used(l.t); used > most {
		return fmt.Errorf("%d bytes are in use, and the points have %d", used, most)
	}
	return nil
}

// checkAll compares every listed point with the truth, by qemu-img and by restore, and
// verifies all of it.
func (l *lane) checkAll() {
	l.t.Helper()
	all := readPoints(l.t, l.repo)
	for _, p := range listed(all) {
		l.compare(p)
		l.restore(p)
	}
	for _, p := range all { // hidden ones, too
		l.must(check(p))
	}
	l.must(l.space(all))
	l.verify()
	l.t.Logf("night %d: %d points are listed, and right", l.night, len(listed(all)))
}
