package bench

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// The night of the issue: 656 clusters of 64 KiB, 41 MiB.
const nightly = 656

// prunings have no guest: their points are those of a history. The run of rewrite is 31
// images, as long as a default run gets, each with 1 % of the disk.
var prunings = []scenario{
	{"prune-4g", "a full of 4 GiB and two incs of 41 MiB in 656 places", []place{xfs}, chained(4 * gib),
		[]way{{"prune-full", (*stage).pruneFull}, {"prune-inc", (*stage).pruneInc}, {"cp", (*stage).cp}}},
	{"prune-40g", "the same with a full of 40 GiB, of which ten clusters each share their blocks", []place{xfs}, chained(40 * gib),
		[]way{{"prune-full", (*stage).pruneFull}, {"prune-inc", (*stage).pruneInc}, {"cp", (*stage).cp}}},
	{"rewrite", "a full of 4 GiB and 30 incs of 41 MiB", []place{disk}, runOf(4*gib, 31, 1, nightly),
		[]way{{"prune-compact", (*stage).pruneCompact}, {"qemu-img-run", (*stage).qemuImgRun}, {"qemu-img-run-m8", (*stage).qemuImgRun8}}},
	{"run-4", "a full of 256 MiB spread over a disk of 16 GiB, and 3 incs of 128 clusters", []place{disk}, runOf(16*gib, 4, 64, 128),
		[]way{{"prune-compact", (*stage).pruneCompact}}},
	{"run-200", "the same with 199 incs", []place{disk}, runOf(16*gib, 200, 64, 128),
		[]way{{"prune-compact", (*stage).pruneCompact}}},
	{"tenth", "400 nights that change half of the same tenth of a disk of 256 MiB, of which 30 stay", []place{xfs},
		nights(256*mib, 10), []way{{"prune-nightly", nightlyFor(400, 205)}}},
	{"year", "365 nights that change 10 MiB of a disk of 1 GiB, of which 30 stay", []place{ext4},
		nights(gib, 1), []way{{"prune-nightly", nightlyFor(365, 160)}}},
	{"policy", "10,000 points in chains of 100, all of them verified, of which rules keep 500", []place{tmpfs}, tinyPoints,
		[]way{{"dry-run", (*stage).dryRun}}},
}

var (
	overFull     = []string{"prune-4g", "prune-40g"}
	pruneBudgets = []budget{
		{work: "hiding a full and merging it, without 0.5 s : cp and sync of the inc", sources: overFull, minus: 0.5,
			ours: "prune-full", peers: []string{"cp"}, pick: first, figure: wall, limit: 2},
		{work: "hiding an inc and merging it, without 0.5 s : cp and sync of the inc", sources: overFull, minus: 0.5,
			ours: "prune-inc", peers: []string{"cp"}, pick: first, figure: wall, limit: 2},
		{work: "written to hide a full and merge it, per byte of the inc", sources: overFull, ours: "prune-full", figure: writtenShare, limit: 1.3},
		{work: "written to hide an inc and merge it, per byte of the inc", sources: overFull, ours: "prune-inc", figure: writtenShare, limit: 1.3},
		{work: "pruning over 40 GiB : over 4 GiB, time", sources: []string{"prune-40g"}, against: "prune-4g",
			ours: "prune-full", peers: []string{"prune-full"}, pick: first, figure: wall, limit: 1.25},
		{work: "pruning over 40 GiB : over 4 GiB, bytes written", sources: []string{"prune-40g"}, against: "prune-4g",
			ours: "prune-full", peers: []string{"prune-full"}, pick: first, figure: writtenShare}, // both are some MiB of metadata
		{work: "rewriting a run : fastest qemu-img of the same", ours: "prune-compact",
			peers: []string{"qemu-img-run", "qemu-img-run-m8"}, pick: fastest, figure: wall, limit: 1 / 0.8},
		{work: "peak memory of prune, MiB", ours: "prune-compact", figure: peak, limit: maxMemory},
		{work: "peak memory of prune, MiB", ours: "prune-full", figure: peak, limit: maxMemory},
		{work: "peak memory of prune, MiB", ours: "prune-nightly", figure: peak, limit: maxMemory},
		{work: "peak memory of a policy, MiB", ours: "dry-run", figure: peak},
		{work: "peak memory, run of 200 images : of 4", sources: []string{"run-200"}, against: "run-4",
			ours: "prune-compact", peers: []string{"prune-compact"}, pick: first, figure: peak},
		{work: "allocated per byte of live data", sources: []string{"tenth"}, ours: "prune-nightly", figure: storedShare, limit: 1.25},
		{work: "written by backups and merges, per byte of the incs", sources: []string{"year"}, ours: "prune-nightly", figure: writtenShare, limit: 5},
		{work: "policy over 10,000 points, seconds", ours: "dry-run", figure: wall, limit: 1},
	}
)

// newPastStage makes the stage of a history in a directory.
func newPastStage(t *testing.T, s settings, p place, dir string, size int64) (*stage, *history) {
	t.Helper()
	st := &stage{settings: s, t: t, place: p, size: size, targets: filepath.Join(dir, "targets"), base: filepath.Join(dir, "base")}
	if err := os.Mkdir(st.targets, 0o755); err != nil {
		t.Fatal(err)
	}
	return st, newHistory(t, st.base, size)
}

// chained makes the stage of a full of size bytes and two incs.
func chained(size int64) func(*testing.T, settings, place) *stage {
	return func(t *testing.T, s settings, p place) *stage {
		t.Helper()
		v := newVolume(t, p, 12*gib/s.shrink)
		st, h := newPastStage(t, s, p, v.dir, size/s.shrink)
		st.volume, st.sources, h.twins = v, []string{st.base}, 4*gib/s.shrink/cluster
		h.fill(1)
		h.point()
		for range 2 {
			h.scatter(max(nightly/s.shrink, 1), len(h.versions))
			st.data = h.point()
		}
		t.Logf("a disk of %d MiB takes %d MiB", st.size/mib, v.used(t)/mib)
		return st
	}
}

// runOf makes the stage of a run of images: a full of every step-th cluster, and incs of so
// many. A small run is shorter, too.
func runOf(size int64, images, step int, changed int64) func(*testing.T, settings, place) *stage {
	return func(t *testing.T, s settings, p place) *stage {
		t.Helper()
		st, h := newPastStage(t, s, p, testdomain.TempDir(t), size/s.shrink)
		st.sources = []string{st.base}
		h.fill(step)
		st.data = h.point()
		for range max(int64(images-1)/s.shrink, 1) {
			h.scatter(max(changed/s.shrink, 1), len(h.versions))
			h.point()
		}
		st.truth = h.image(h.newest())
		return st
	}
}

// pruneFull hides the full, and so merges it into the first inc.
func (s *stage) pruneFull() contestant { return s.pruneOne("check1", "check2") }

// pruneInc hides the first inc, and so merges it into the second.
func (s *stage) pruneInc() contestant { return s.pruneOne("check2", "check3") }

// pruneOne removes a point from a copy of the base repository. It must have been merged.
func (s *stage) pruneOne(id, into string) contestant {
	compared := s.size > 4*gib // more takes too long
	return s.counted(contestant{
		before: func(r *turn) { s.copyBase(r, "--reflink=always") },
		work: func(r *turn) {
			r.result = filepath.Join(r.dir, "repo")
			s.prune(r, r.result, "--remove", id)
		},
		after: func(r *turn) {
			image := s.past(r.result, into)
			if _, err := os.Stat(s.past(r.result, id)); err == nil {
				s.t.Errorf("%s is still there", id)
			}
			if !compared {
				compared = true
				testdomain.Tool(s.t, "qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", image, s.past(s.base, into))
			}
		},
	})
}

// cp copies the data of the inc, as a yardstick for what the merge copies.
func (s *stage) cp() contestant {
	return s.counted(contestant{
		before: func(r *turn) { s.copyBase(r, "--reflink=always") },
		work: func(r *turn) {
			r.result = filepath.Join(r.dir, "copy")
			r.run("cp", "--reflink=never", s.past(filepath.Join(r.dir, "repo"), "check2"), r.result)
			r.sync(r.result)
		},
	})
}

// counted counts what a contestant writes to the device.
func (s *stage) counted(c contestant) contestant {
	before, after := c.before, c.after
	c.before = func(r *turn) {
		before(r)
		r.Written = -s.volume.written(s.t)
	}
	c.after = func(r *turn) {
		r.Written += s.volume.written(s.t)
		if after != nil {
			after(r)
		}
	}
	return c
}

// prune runs the program on a repository, as part of a turn.
func (s *stage) prune(r *turn, repo string, args ...string) {
	s.t.Helper()
	r.run(testdomain.Binary(s.t), append([]string{"--repo", repo, "--quiet", "prune", pastDomain}, args...)...)
}

// past is the image of a point of a history.
func (s *stage) past(repo, id string) string { return filepath.Join(repo, pastDomain, id, "vda.qcow2") }

// copyBase makes a copy of the base repository, with cp's option for how.
func (s *stage) copyBase(r *turn, how string) {
	s.t.Helper()
	testdomain.Tool(s.t, "cp", "-a", how, s.base, filepath.Join(r.dir, "repo"))
}

// pruneCompact merges all points into the newest one. No file of a point is written to, so
// the copy of the base consists of hard links.
func (s *stage) pruneCompact() contestant {
	return contestant{
		before: func(r *turn) { s.copyBase(r, "--link") },
		work: func(r *turn) {
			repo := filepath.Join(r.dir, "repo")
			s.prune(r, repo, "--keep-last", "1", "--compact")
			r.image = s.past(repo, filepath.Base(filepath.Dir(s.truth)))
			r.result = filepath.Dir(r.image)
		},
	}
}

// qemuImgRun flattens the same images.
func (s *stage) qemuImgRun() contestant { return s.qemuImgFlat() }

func (s *stage) qemuImgRun8() contestant { return s.qemuImgFlat("-m", "8") }

func (s *stage) qemuImgFlat(options ...string) contestant {
	return contestant{work: func(r *turn) {
		r.image = filepath.Join(r.dir, "vda.qcow2")
		args := append([]string{"convert", "-W", "-t", "none", "-f", "qcow2", "-O", "qcow2"}, options...)
		r.run("qemu-img", append(args, s.truth, r.image)...)
		r.sync(r.image)
	}}
}

// nights makes the stage of a disk that changes every night, in its first part of so many.
func nights(size, part int64) func(*testing.T, settings, place) *stage {
	return func(t *testing.T, s settings, p place) *stage {
		t.Helper()
		v := newVolume(t, p, 6*gib/s.shrink)
		st := &stage{settings: s, t: t, place: p, size: size / s.shrink, targets: v.dir, volume: v, once: true}
		st.changes = changes{size: st.size / part}
		return st
	}
}

// nightlyFor makes a point of so many changed clusters every night, and prunes.
func nightlyFor(count, changed int64) func(*stage) contestant {
	return func(s *stage) contestant {
		var h *history
		var used int64
		return s.counted(contestant{
			before: func(r *turn) {
				h = newHistory(s.t, filepath.Join(r.dir, "repo"), s.size)
				used = s.volume.used(s.t)
			},
			work: func(r *turn) {
				r.Data = 0
				h.fill(1)
				h.point()
				for range max(count/s.shrink, 5) {
					h.scatter(max(changed/s.shrink, 1), int(s.changes.size/cluster))
					r.Data += h.point()
					s.prune(r, h.repo.Dir(), "--keep-daily", "30")
				}
			},
			after: func(r *turn) {
				r.Stored = s.volume.used(s.t) - used
				truth := filepath.Join(testdomain.TempDir(s.t), "truth")
				h.truth(truth)
				testdomain.Same(s.t, h.image(h.newest()), "qcow2", truth)
				s.lookBack(r, h)
			},
		})
	}
}

// lookBack compares what the repository holds with what its points need.
func (s *stage) lookBack(r *turn, h *history) {
	s.t.Helper()
	l, err := h.repo.Lineage(pastDomain)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, m := range l.Points {
		r.Live += m.Disks[0].DataBytes
	}
	s.t.Logf("%d points stay, %d are hidden; %d MiB are live, %d stored, %d were written for %d of incs",
		len(l.Points), len(l.Hidden), r.Live/mib, r.Stored/mib, r.Written/mib, r.Data/mib)
}
