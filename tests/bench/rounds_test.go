package bench

import (
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// contestant is one way to do the work of a scenario. before and after are not
// timed and may be nil.
type contestant struct {
	before, work, after func(*turn)
}

// way names a contestant and makes it for a stage.
type way struct {
	name string
	make func(*stage) contestant
}

// row is what was measured of one contestant.
type row struct {
	Source     string   `json:"source"`
	Place      place    `json:"place"`
	Contestant string   `json:"contestant"`
	Samples    []sample `json:"samples"`
}

func (r *row) name() string { return r.Source + "/" + string(r.Place) + "/" + r.Contestant }

// bench is one run of the benchmark.
type bench struct {
	settings
	without *regexp.Regexp // contestants that cannot run here
	date    time.Time
	machine machine

	mu   sync.Mutex
	rows []*row
}

func newBench(t *testing.T) *bench {
	t.Helper()
	return &bench{settings: readSettings(t), without: absent(t), date: time.Now(), machine: readMachine(t)}
}

// choose keeps the ways of a scenario that are asked for and possible.
func (b *bench) choose(source string, p place, ways []way) []way {
	return slices.DeleteFunc(slices.Clone(ways), func(w way) bool {
		r := row{Source: source, Place: p, Contestant: w.name}
		return !b.only.MatchString(r.name()) || b.without.MatchString(w.name)
	})
}

// compete lets the contestants take turns, each round beginning with another one.
func (b *bench) compete(s *stage, source string, ways []way) {
	s.t.Helper()
	rows := make([]*row, len(ways))
	contestants := make([]contestant, len(ways))
	for i, w := range ways {
		rows[i] = &row{Source: source, Place: s.place, Contestant: w.name}
		contestants[i] = w.make(s)
	}
	rounds := b.rounds
	if s.once {
		rounds = 1
	}
	for round := range rounds {
		for i := range ways {
			i = (i + round) % len(ways)
			x := s.turn(contestants[i], round == 0)
			rows[i].Samples = append(rows[i].Samples, x)
			s.t.Logf("round %d: %-32s %8.3f s", round+1, rows[i].name(), x.Wall)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rows = append(b.rows, rows...)
}

// turn runs a contestant once.
func (s *stage) turn(c contestant, compare bool) sample {
	s.t.Helper()
	dir := filepath.Join(s.targets, testdomain.NewName())
	if err := os.Mkdir(dir, 0o755); err != nil {
		s.t.Fatal(err)
	}
	r := &turn{t: s.t, dir: dir, result: dir}
	r.Data = s.data
	if c.before != nil {
		c.before(r)
	}
	s.settle(s.t, s.sources)
	debug.FreeOSMemory()
	forgetPeak()
	start := time.Now()
	c.work(r)
	r.Wall = time.Since(start).Seconds()
	s.look(r, compare)
	if c.after != nil {
		c.after(r)
	}
	if err := os.RemoveAll(dir); err != nil {
		s.t.Fatal(err)
	}
	return r.sample
}

// look measures the result of a turn, and compares it with the source by qemu-img.
func (s *stage) look(r *turn, compare bool) {
	s.t.Helper()
	files := regular(s.t, r.result)
	r.Cached = cachedBytes(s.t, files)
	r.Stored = storedBytes(s.t, files)
	if compare && r.image != "" {
		testdomain.Tool(s.t, "qemu-img", "compare", "-U", "-F", "qcow2",
			"-f", filepath.Ext(r.image)[1:], r.image, s.truth)
	}
}
