package bench

import (
	"path/filepath"

	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// fullZstd is the only contestant that older versions of virtbackup do not support.
const fullZstd = "full-zstd"

// virtbackup runs the program on the stage's domain, as part of a turn.
func (s *stage) virtbackup(r *turn, repo, command string, args ...string) {
	s.t.Helper()
	all := append([]string{"--repo", repo, "--quiet", command, s.Name}, args...)
	r.run(testdomain.Binary(s.t), all...)
}

// point is the image of the disk in a point.
func (s *stage) point(repo, id string) string { return filepath.Join(repo, s.Name, id, "vda.qcow2") }

// newRepo makes a repository; that is not measured.
func (s *stage) newRepo(dir string) {
	s.t.Helper()
	if _, err := repository.Create(dir); err != nil {
		s.t.Fatal(err)
	}
}

// read is virtbackup's engine, which discards what it reads.
func (s *stage) read() contestant {
	return s.overNBD("", contestant{work: func(r *turn) { r.runChild("read", s.socket()) }})
}

func (s *stage) full() contestant { return s.whole("check1", "full") }
func (s *stage) zstd() contestant { return s.whole("check1", "full", "--compress", "zstd") }
func (s *stage) copy() contestant { return s.whole("copy1", "copy") }

// whole makes the first point of a new repository, with all that belongs to it:
// the job is begun, the checkpoint made, the point sealed.
func (s *stage) whole(id, command string, args ...string) contestant {
	return contestant{
		before: func(r *turn) { s.newRepo(filepath.Join(r.dir, "repo")) },
		work: func(r *turn) {
			repo := filepath.Join(r.dir, "repo")
			s.virtbackup(r, repo, command, args...)
			r.image = s.point(repo, id)
		},
		after: s.forget,
	}
}

// fullOff is full of a domain that is shut off.
func (s *stage) fullOff() contestant { return s.off(s.full()) }

// incOff is inc of a domain that is shut off.
func (s *stage) incOff() contestant { return s.off(s.inc()) }

// off lets a contestant work while the domain is shut off.
func (s *stage) off(c contestant) contestant {
	before, after := c.before, c.after
	c.before = func(r *turn) {
		testdomain.Virsh(s.t, "destroy", s.Name, "--graceful")
		before(r)
	}
	c.after = func(r *turn) {
		s.Start()
		after(r)
	}
	return c
}

// inc makes a point in the repository that has the base, and removes it again. Its
// number is another one each time.
func (s *stage) inc() contestant { return s.increment("--since", "check1") }

// inc100 is inc as the hundredth point, of a domain of its own.
func (s *stage) inc100() contestant {
	return newChanged(s.t, s.settings, s.place, s.changes, func(s *stage) {
		s.t.Helper()
		ourBase(s)
		for range 98 / s.shrink {
			testdomain.Tool(s.t, testdomain.Binary(s.t), "--repo", s.base, "--quiet", "inc", s.Name)
		}
	}).increment()
}

// increment makes a point, and removes it again.
func (s *stage) increment(args ...string) contestant {
	return contestant{
		before: func(*turn) { s.settle(s.t, s.sources) },
		work: func(r *turn) {
			s.virtbackup(r, s.base, "inc", args...)
			r.image = s.point(s.base, s.newest())
			r.result = filepath.Dir(r.image)
		},
		after: func(r *turn) {
			testdomain.Tool(s.t, testdomain.Binary(s.t), "--repo", s.base, "--quiet", "release", s.Name+"@"+filepath.Base(r.result), "--points")
		},
	}
}

// newest is the newest point of the base repository.
func (s *stage) newest() (id string) {
	s.t.Helper()
	repo, err := repository.Open(s.base)
	if err != nil {
		s.t.Fatal(err)
	}
	lineage, err := repo.Lineage(s.Name)
	if err != nil {
		s.t.Fatal(err)
	}
	ids := lineage.IDs()
	if len(ids) == 0 {
		s.t.Fatalf("the repository %s has no points", s.base)
	}
	return ids[len(ids)-1]
}

// restore restores the newest point of the base repository.
func (s *stage) restore() contestant {
	return contestant{work: func(r *turn) {
		r.result = filepath.Join(r.dir, "restored")
		s.virtbackup(r, s.base, "restore", "--to", r.result)
		r.image = filepath.Join(r.result, "vda.qcow2")
	}}
}
