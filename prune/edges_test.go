package prune

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/tests/testfs"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/retention"
	"github.com/virtbackup/virtbackup/verify"
)

// An inc all of whose disks were read in full has a parent that it does not need.
func TestMaterialiseWhatNeedsNothing(t *testing.T) {
	w := newWorld(t)
	w.write("vda", 1, 0, 1)
	c1 := w.point(manifest.KindFull, "")
	w.disks = map[string][]byte{"vdb": make([]byte, 16*cluster)}
	w.write("vdb", 2, 3)
	c2 := w.point(manifest.KindInc, c1)
	defer func() {
		if v := recover(); v != nil {
			t.Errorf("panic: %v", v)
		}
	}()
	_, err := Materialise(context.Background(), w.repo, "vm1", c2, Options{})
	if err != nil {
		t.Error(err)
	}
	m, _ := w.lineage().Point(c2)
	if m.Parent != "" {
		t.Errorf("%s still has the parent %s", c2, m.Parent)
	}
	w.check()
}

// Of several crowded chains each is merged, not just the longest.
func TestCrowds(t *testing.T) {
	w := newWorld(t)
	var remove []string
	for _, n := range []int{5, 5, 6} {
		var ids []string
		w.write("vda", 1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
		ids = append(ids, w.point(manifest.KindFull, ""))
		for i := 1; i < n; i++ {
			w.write("vda", byte(100+i), i%3)
			ids = append(ids, w.point(manifest.KindInc, ids[i-1]))
		}
		remove = append(remove, ids[:n-1]...)
	}
	r := Request{Remove: remove}
	r.MaxHidden = 5
	result := w.prune(r)
	for _, m := range result.Merged {
		t.Logf("merged %v into %s", m.From, m.Point)
	}
	for _, h := range result.Held {
		t.Logf("held %s: %s", h.Point, h.By)
	}
	if s := w.lineage(); len(s.Hidden) > r.MaxHidden {
		t.Errorf("%d points are hidden, at most %d may be: %s", len(s.Hidden), r.MaxHidden, w.hidden())
	}
	w.check()
}

// What is known to be damaged is known after a merge, too.
func TestDamageIsForgotten(t *testing.T) {
	w := newWorld(t)
	w.disks["vdb"] = make([]byte, 16*cluster)
	w.write("vda", 1, 0, 1, 2, 3)
	w.write("vdb", 1, 0, 1, 2, 3)
	c1 := w.point(manifest.KindFull, "")
	w.write("vda", 2, 1)
	c2 := w.point(manifest.KindInc, c1)
	// The same day: a sound full, then an inc since c2, whose vdb is read in full, and damaged.
	w.now = w.now.Add(-23 * time.Hour)
	c3 := w.point(manifest.KindFull, "")
	w.now = w.now.Add(-23 * time.Hour)
	w.truth[c2]["vdb"] = nil
	w.write("vda", 3, 2)
	c4 := w.point(manifest.KindInc, c2)
	w.now = w.now.Add(24 * time.Hour)
	image := filepath.Join(w.repo.PointDir("vm1", c4), "vdb.qcow2")
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	info, _ := f.Stat()
	b := make([]byte, 1)
	at := info.Size() / 2
	f.ReadAt(b, at)
	b[0] ^= 1
	f.WriteAt(b, at)
	f.Close()
	w.point(manifest.KindFull, "")
	report, err := verify.Run(context.Background(), w.repo, verify.Request{Domain: "vm1"})
	if err != nil || report.Err() == nil {
		t.Fatal(err, "no damage")
	}
	daily := Request{Rules: retention.Rules{Daily: 2, Zone: time.UTC}}
	daily.Compact = true
	first, err := w.try(Request{Rules: daily.Rules, DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range first.Points {
		t.Logf("%+v", p)
	}
	// c4 is kept by a person; c1 and c2 go.
	l := w.lock()
	if _, err := l.Protect(c4, time.Time{}, ""); err != nil {
		t.Fatal(err)
	}
	l.Unlock()
	for i := range 2 {
		result, err := w.try(daily)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range result.Points {
			t.Logf("%d %+v", i, p)
		}
		t.Logf("%+v", result.Merged)
	}
	if !strings.Contains(w.listed(), c3) {
		t.Errorf("%s, sound, was removed in favour of %s, damaged: %s", c3, c4, w.listed())
	}
}

// A file that somebody has put beside the images of a point that stays is not deleted by a merge.
func TestForeignFile(t *testing.T) {
	w := newWorld(t)
	ids := w.nights(3)
	note := filepath.Join(w.repo.PointDir("vm1", ids[2]), "NOTES.txt")
	if err := os.WriteFile(note, []byte("before the migration"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.prune(compact(last(1)))
	if _, err := os.Stat(note); err != nil {
		t.Error(err)
	}
}

// One night's clock was ahead (a host whose clock was set after the backup): the nights before are
// not removed by --keep-within.
func TestWithinAfterAClockAhead(t *testing.T) {
	w := newWorld(t)
	ids := w.nights(10)
	w.now = w.now.AddDate(10, 0, 0)
	w.write("vda", 77, 3)
	w.point(manifest.KindInc, ids[9])
	result := w.prune(Request{Rules: retention.Rules{Within: retention.Span{Days: 14}}})
	t.Logf("hidden %v, merged %v", result.Hidden, result.Merged)
	if len(result.Hidden) > 0 {
		t.Errorf("%d points of the last 14 days are removed", len(result.Hidden))
	}
}

// A merge keeps who may read a point.
func TestModes(t *testing.T) {
	w := newWorld(t)
	ids := w.nights(3)
	dir := w.repo.PointDir("vm1", ids[2])
	for path, mode := range map[string]os.FileMode{dir: 0o750, filepath.Join(dir, "vda.qcow2"): 0o640, filepath.Join(dir, "manifest.json"): 0o640} {
		if err := errors.Join(os.Chmod(path, mode), os.Chown(path, -1, 12)); err != nil {
			t.Fatal(err)
		}
	}
	w.prune(compact(last(1)))
	for path, mode := range map[string]os.FileMode{dir: 0o750, filepath.Join(dir, "vda.qcow2"): 0o640, filepath.Join(dir, "manifest.json"): 0o640} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != mode || info.Sys().(*syscall.Stat_t).Gid != 12 {
			t.Errorf("%s: %v, group %d, %v", path, info.Mode(), info.Sys().(*syscall.Stat_t).Gid, err)
		}
	}
}

// Random trees of points, pins, protections, undos and prunes.
func TestRandomTrees(t *testing.T) {
	dir := t.TempDir()
	if os.Getenv("VIRTBACKUP_TREES_XFS") != "" {
		dir = testfs.XFS(t, 0)
	}
	end := time.Now().Add(5 * time.Second)
	for seed := time.Now().UnixNano(); time.Now().Before(end) && !t.Failed(); seed++ {
		rnd := rand.New(rand.NewSource(seed))
		w := newWorldIn(t, filepath.Join(dir, fmt.Sprint(seed)))
		w.randomTree(rnd, seed)
	}
}

func (w *world) randomTree(rnd *rand.Rand, seed int64) {
	t := w.t
	var pins []string
	for step := range 25 {
		switch n := rnd.Intn(10); {
		case n < 6: // a point
			var bases []string
			for _, m := range w.lineage().Points {
				if m.IsBase() {
					bases = append(bases, m.ID)
				}
			}
			kind, parent := manifest.KindFull, ""
			if len(bases) > 0 && rnd.Intn(8) > 0 {
				kind, parent = manifest.KindInc, bases[len(bases)-1-rnd.Intn(min(3, len(bases)))]
				if rnd.Intn(5) == 0 {
					kind = manifest.KindDiff
				}
			}
			// From the state of the parent on.
			if parent != "" {
				for d, data := range w.truth[parent] {
					w.disks[d] = bytes.Clone(data)
				}
			}
			switch rnd.Intn(6) {
			case 0:
				if _, ok := w.disks["vdb"]; ok {
					delete(w.disks, "vdb")
				} else {
					w.disks["vdb"] = make([]byte, 8*cluster)
				}
			case 1:
				size := (4+rnd.Intn(20))*cluster - rnd.Intn(2)*(1+rnd.Intn(127))*512
				data := make([]byte, size)
				copy(data, w.disks["vda"])
				w.disks["vda"] = data
			}
			for d, data := range w.disks {
				for range rnd.Intn(4) {
					w.write(d, byte(rnd.Intn(4)*rnd.Intn(80)), rnd.Intn((len(data)+cluster-1)/cluster))
				}
			}
			w.point(kind, parent)
		case n < 9:
			ids := w.lineage().IDs()
			if len(ids) == 0 {
				continue
			}
			r := last(1 + rnd.Intn(3))
			if rnd.Intn(2) == 0 {
				r = Request{Remove: []string{ids[rnd.Intn(len(ids))]}}
			}
			r.Compact = rnd.Intn(2) == 0
			r.MaxHidden = 1 + rnd.Intn(4)
			r.ReadersWait = 50 * time.Millisecond
			r.Domain = "vm1"
			if r.Remove != nil || rnd.Intn(3) > 0 {
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				result, err := Run(ctx, w.repo, r)
				if ctx.Err() != nil {
					t.Fatalf("seed %d step %d: prune does not end", seed, step)
				}
				cancel()
				if err != nil && !fail.Is(err, fail.Usage) {
					t.Fatalf("seed %d step %d: %v", seed, step, err)
				}
				if len(result.Warnings) > 0 {
					t.Logf("%v", result.Warnings)
				}
			} else {
				id := ids[rnd.Intn(len(ids))]
				if _, err := Materialise(context.Background(), w.repo, "vm1", id, Options{}); err != nil && !fail.Is(err, fail.Usage) && !fail.Is(err, fail.Locked) {
					t.Fatalf("seed %d step %d: %s: %v", seed, step, id, err)
				}
			}
		default:
			l := w.lineage()
			if len(pins) > 0 && rnd.Intn(2) == 0 {
				if err := w.repo.Unpin("vm1", pins[0]); err != nil {
					t.Fatal(err)
				}
				pins = pins[1:]
			} else if len(l.Points) > 0 && rnd.Intn(2) == 0 {
				lock := w.lock()
				p, err := lock.Pin(l.Points[rnd.Intn(len(l.Points))].ID, "a guest")
				lock.Unlock()
				if err != nil {
					t.Fatal(err)
				}
				pins = append(pins, p.ID)
			} else if len(l.Hidden) > 0 {
				if err := Undo(context.Background(), w.repo, "vm1", l.Hidden[rnd.Intn(len(l.Hidden))].ID); err != nil {
					t.Fatalf("seed %d step %d: undo: %v", seed, step, err)
				}
			}
		}
		// Every point that is there, hidden ones too, shows what it showed.
		for _, m := range w.lineage().All() {
			for _, d := range m.Disks {
				truth := w.truth[m.ID][d.Target]
				if out, err := exec.Command("qemu-img", "convert", "-O", "raw", filepath.Join(w.repo.PointDir("vm1", m.ID), d.Image), filepath.Join(w.repo.Dir(), "raw")).CombinedOutput(); err != nil {
					t.Fatalf("seed %d step %d: %s %v: %s", seed, step, m.ID, err, out)
				}
				got, err := os.ReadFile(filepath.Join(w.repo.Dir(), "raw"))
				if err != nil || !bytes.Equal(got, truth) {
					t.Fatalf("seed %d step %d: %s/%s shows something else: %v", seed, step, m.ID, d.Target, err)
				}
			}
		}
	}
	os.Remove(filepath.Join(w.repo.Dir(), "raw"))
	report, err := verify.Run(context.Background(), w.repo, verify.Request{})
	if err != nil || report.Err() != nil {
		t.Fatalf("seed %d: verify: %v, %v: %+v", seed, err, report.Err(), report.Damage)
	}
	os.RemoveAll(w.repo.Dir())
}

// The domain.xml of the full is damaged: those chained onto it restore, verify says so, and rules
// count them.
func TestDamagedFileOfAParent(t *testing.T) {
	w := newWorld(t)
	ids := w.nights(6)
	if err := os.WriteFile(filepath.Join(w.repo.PointDir("vm1", ids[0]), manifest.DomainXML), []byte("<domoin/>"), 0o600); err != nil {
		t.Fatal(err)
	}
	report, err := verify.Run(context.Background(), w.repo, verify.Request{Domain: "vm1"})
	if err != nil || report.Err() == nil {
		t.Fatal(err, report.Err())
	}
	t.Logf("verify: %s restore, %s are lost", report.Domains[0].Restores, report.Domains[0].Lost)
	w.write("vda", 200, 5)
	w.point(manifest.KindInc, ids[5])
	only, err := w.try(Request{Rules: retention.Rules{Last: 1}, DryRun: true})
	if err != nil || !only.Points[5].Keep {
		t.Errorf("%s, the newest that passed verify, is removed: %v", ids[5], err)
	}
	result := w.prune(Request{Rules: retention.Rules{Daily: 30}})
	for _, p := range result.Points[1:] {
		if !p.Keep {
			t.Errorf("%s, which restores, is removed: %s", p.ID, p.Reasons)
		}
	}
}

// A later verification of the parent alone counts for its children.
func TestDamageFoundLaterOfAParent(t *testing.T) {
	w := newWorld(t)
	ids := w.nights(3)
	sound := func() state {
		r := newRun(w.repo, "vm1", Options{})
		s, err := r.gather()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	verified := func(at string) {
		if _, err := verify.Run(context.Background(), w.repo, verify.Request{Domain: "vm1", Point: at}); err != nil {
			t.Fatal(err)
		}
	}
	verified("")
	if s := sound(); !s.sound[ids[2]] || s.damaged[ids[2]] {
		t.Errorf("sound %v, damaged %v", s.sound, s.damaged)
	}
	image := filepath.Join(w.repo.PointDir("vm1", ids[0]), "vda.qcow2")
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(image, data, 0o600); err != nil {
		t.Fatal(err)
	}
	verified(ids[0])
	if s := sound(); s.sound[ids[2]] || !s.damaged[ids[0]] || !s.damaged[ids[1]] || !s.damaged[ids[2]] {
		t.Errorf("sound %v, damaged %v", s.sound, s.damaged)
	}
}
