package nights

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/tests/fakelibvirt"
	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// steady is a domain of which a fixed number of clusters is written to each night, at random
// within a part of its only disk, which is full of data.
type steady struct {
	*programs
	fs       *filesystem
	dir      string
	size     int64 // of the disk
	within   int64 // of it is written to
	clusters int   // are written to each night
	keep     int   // nights
	nights   int   // that pass
	night    int
	written  int64 // by merges, as prune says
	blocks   int64 // that prunes have written, as the kernel says, in bytes
}

func newSteady(t *testing.T, kind string, size, within, each int64) *steady {
	t.Helper()
	s := &steady{keep: 30, nights: 400, fs: newFilesystem(t, kind, int(size>>20)*6), dir: testdomain.TempDir(t), size: size, within: within, clusters: int(each / cluster)}
	if isShort() { // enough for merges
		s.keep, s.nights = 5, 40
	}
	s.programs = newPrograms(t, s.dir, filepath.Join(s.fs.dir, "repo"))
	s.write(t, size, int(size/cluster))
	return s
}

// write writes random data to some clusters, each at most once.
func (s *steady) write(t *testing.T, within int64, n int) {
	t.Helper()
	r := rand.New(rand.NewPCG(uint64(s.night), 1))
	g := guest{dir: s.dir}
	if err := g.with(func(d *fakelibvirt.Domain) error {
		if d.Size("vda") == 0 {
			if err := d.Attach("vda", s.size); err != nil {
				return err
			}
		}
		for _, c := range r.Perm(int(within / cluster))[:n] {
			p := make([]byte, cluster)
			fill(r, p)
			d.Write("vda", int64(c)*cluster, p)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// pass lets a night pass; now and then the newest point is compared with the disk.
func (s *steady) pass(t *testing.T) {
	t.Helper()
	kind := "inc"
	if s.night == 0 {
		kind = "full"
	} else {
		s.write(t, s.within, s.clusters)
	}
	at := time.Date(2024, 1, 1, 1, 0, 0, 0, time.UTC).AddDate(0, 0, s.night).Format(time.RFC3339)
	s.ok(t, s.run(nil, "backup", s.backup, "-domain", s.dir, "-run", s.dir, "-repo", s.repo, "-now", at, "-kind", kind))
	done := s.virtbackup(nil, "prune", "vm1", "--json", "--keep-daily", fmt.Sprint(s.keep), "--timezone", "UTC")
	s.ok(t, done)
	var said pruned
	if err := json.Unmarshal([]byte(done.stdout), &said); err != nil {
		t.Fatal(err)
	}
	for _, m := range said.Merged {
		s.written += m.Written
	}
	s.blocks += done.usage.Oublock * 512
	s.night++
	if s.night%20 == 0 {
		all := listed(readPoints(t, s.repo))
		if err := compare(all[len(all)-1], map[string]truth{"vda": {file: filepath.Join(s.dir, "vda.raw"), size: s.size}}); err != nil {
			t.Fatal(err)
		}
	}
}

func (s *steady) ok(t *testing.T, done result) {
	t.Helper()
	if done.code != 0 {
		t.Fatalf("exit %d: %s%s", done.code, done.stdout, done.stderr)
	}
}

// A year on ext4: what merges write is bounded by what was backed up. A guest of 1 GiB with
// 10 MiB a night, made smaller by 16.
func TestBytesThatMergesWrite(t *testing.T) {
	t.Parallel()
	const each = 640 << 10
	s := newSteady(t, "ext4", 64<<20, 64<<20, each)
	s.nights = min(s.nights, 365)
	for range s.nights {
		s.pass(t)
	}
	incs := float64(each) * float64(s.nights-1)
	t.Logf("%d nights, the last %d of them kept: merges have written %.2f times the bytes of the incs (%.2f with all else that prune writes); budget 5", s.nights, s.keep, float64(s.written)/incs, float64(s.blocks)/incs)
	if float64(s.written) > 5*incs || float64(s.blocks) > 5*incs {
		t.Error("that is too much")
	}
}

// 400 nights over the same tenth of a disk on XFS: the repository does not grow. A disk of
// 1 GiB with 10 MiB a night, made smaller by 4, or by 16.
func TestSpaceOfTheSameTenth(t *testing.T) {
	t.Parallel()
	size := int64(256 << 20)
	if isShort() {
		size /= 4
	}
	each := size / 100
	each -= each % cluster
	s := newSteady(t, "xfs", size, size/10, each)
	worst := 0.0
	for range s.nights {
		s.pass(t)
		live := size + int64(min(s.night, s.keep)-1)*each
		worst = max(worst, float64(s.fs.used(t))/float64(live))
	}
	t.Logf("%d nights, the last %d of them kept: the repository has allocated at most %.3f times its live data; budget 1.25", s.nights, s.keep, worst)
	if worst > 1.25 {
		t.Error("that is too much")
	}
}
