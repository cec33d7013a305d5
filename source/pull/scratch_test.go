package pull

import (
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/internal/bytesize"
)

// watchOf feeds a watch with samples of used and free, one second apart.
func watchOf(w scratchWatch, size int64, samples ...[2]int64) *scratchWatch {
	for i, s := range samples {
		w.note(scratchSample{at: time.Unix(int64(i), 0), used: s[0], free: s[1], size: size})
	}
	return &w
}

func TestScratchShort(t *testing.T) {
	const mib, gib = 1 << 20, 1 << 30
	for name, c := range map[string]struct {
		watch   scratchWatch
		size    int64
		samples [][2]int64
		want    string // "" goes on
	}{
		"plenty":                    {scratchWatch{max: 100 * gib}, 100 * gib, [][2]int64{{0, 50 * gib}, {100 * mib, 49 * gib}}, ""},
		"nothing written, floor":    {scratchWatch{max: 100 * gib}, 100 * gib, [][2]int64{{0, 255 * mib}}, "255.0 MiB are free"},
		"just above the floor":      {scratchWatch{max: 100 * gib}, 100 * gib, [][2]int64{{0, 256 * mib}}, ""},
		"small file system":         {scratchWatch{max: 100 * gib}, 64 * mib, [][2]int64{{0, 9 * mib}}, ""},
		"small file system is full": {scratchWatch{max: 100 * gib}, 64 * mib, [][2]int64{{0, 7 * mib}}, "reserve of 8.0 MiB"},
		"fast guest":                {scratchWatch{max: 100 * gib}, 100 * gib, [][2]int64{{0, 6 * gib}, {gib, 5*gib - 1}}, "goes on at 1.0 GiB a second"},
		"fast guest, enough":        {scratchWatch{max: 100 * gib}, 100 * gib, [][2]int64{{0, 6 * gib}, {gib, 5 * gib}}, ""},
		"burst remembered":          {scratchWatch{max: 100 * gib}, 100 * gib, [][2]int64{{0, 5 * gib}, {gib, 4 * gib}, {gib, 4 * gib}}, "would fail"},
		"burst forgotten": {scratchWatch{max: 100 * gib}, 100 * gib,
			[][2]int64{{0, 9 * gib}, {gib, 8 * gib}, {gib, 4 * gib}, {gib, 4 * gib}, {gib, 4 * gib}, {gib, 4 * gib}, {gib, 4 * gib}, {gib, 4 * gib}, {gib, 4 * gib}, {gib, 4 * gib}, {gib, 4 * gib}}, ""},
		"a write that is not counted yet":       {scratchWatch{max: gib}, 8 << 20, [][2]int64{{0, 1 << 20}, {0, 1 << 19}}, "the guest overwrites what QEMU keeps there while the job runs, or something else"},
		"others take the space":                 {scratchWatch{max: 100 * gib}, 100 * gib, [][2]int64{{0, 2 * gib}, {0, gib}}, "no more than 0 bytes while the job ran, something else fills"},
		"others take more":                      {scratchWatch{max: 100 * gib}, 100 * gib, [][2]int64{{0, 2 * gib}, {100 * mib, gib}}, "no more than 100.0 MiB"},
		"others take a little":                  {scratchWatch{max: 100 * gib}, 100 * gib, [][2]int64{{0, 5 * gib}, {gib, 4*gib - mib}}, "the guest has overwritten 1.0 GiB"},
		"others slower than guest":              {scratchWatch{max: 100 * gib}, 100 * gib, [][2]int64{{0, 9 * gib}, {gib, 7 * gib}}, ""},
		"cannot grow that far":                  {scratchWatch{max: 100 * mib}, 100 * gib, [][2]int64{{0, 200 * mib}, {90 * mib, 110 * mib}}, ""},
		"cannot grow far, others take the rest": {scratchWatch{max: 100 * mib}, 100 * gib, [][2]int64{{50 * mib, 500 * mib}, {50 * mib, 300 * mib}}, "less than the reserve of 400.0 MiB"},
		"cannot grow far, and others, enough":   {scratchWatch{max: 100 * mib}, 100 * gib, [][2]int64{{50 * mib, 600 * mib}, {50 * mib, 400 * mib}}, ""},
		"guest and others":                      {scratchWatch{max: 100 * gib}, 100 * gib, [][2]int64{{0, 9 * gib}, {gib, 6*gib - 1}}, "less than the reserve of 6.0 GiB"},
		"cannot grow at all":                    {scratchWatch{max: 100 * mib}, 100 * gib, [][2]int64{{100 * mib, 300 * mib}, {100 * mib, 100 * mib}}, ""},
		"below the limit":                       {scratchWatch{max: 100 * gib, limit: gib}, 100 * gib, [][2]int64{{0, 50 * gib}, {100 * mib, 49 * gib}}, ""},
		"limit":                                 {scratchWatch{max: 100 * gib, limit: gib}, 100 * gib, [][2]int64{{900 * mib, 50 * gib}, {960 * mib, 50 * gib}}, "limit of 1.0 GiB"},
		"first look":                            {scratchWatch{max: 100 * gib, limit: gib}, 100 * gib, [][2]int64{{2 * gib, 50 * gib}}, "limit of 1.0 GiB"},
	} {
		t.Run(name, func(t *testing.T) {
			got := watchOf(c.watch, c.size, c.samples...).short()
			if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// copying feeds a watch with a copy of need bytes into the scratch files' own file
// system, of size bytes, at ours bytes a second, allocated in steps, while the
// guest overwrites at guest bytes a second. It returns what ended it, or "", and
// the minimum of free bytes.
func copying(size, need, ours, step, guest int64) (why string, least int64) {
	w := scratchWatch{max: 1 << 50}
	now, done, used := time.Unix(0, 0), int64(0), int64(0)
	taken := func() int64 { return min(need, (done+step-1)/step*step) }
	for least = size; ; least = min(least, size-taken()-used) {
		w.note(scratchSample{at: now, used: used, free: size - taken() - used, size: size, take: need, has: taken()})
		if why = w.short(); why != "" || done == need {
			return why, least
		}
		done = min(need, done+int64(w.pause().Seconds()*float64(ours)))
		used += int64(w.pause().Seconds() * float64(guest))
		now = now.Add(w.pause())
	}
}

// The backup's own writes to a small file system do not end it if they fit. The guest's
// writes do, in time, and so do unexpected ones.
func TestScratchBesideTheRepository(t *testing.T) {
	const mib = 1 << 20
	for _, step := range []int64{1, 256 * mib} {
		for _, ours := range []int64{10 * mib, 300 * mib, 3000 * mib} {
			if why, _ := copying(1024*mib, 890*mib, ours, step, 0); why != "" {
				t.Errorf("%s a second in steps of %s: %s", bytesize.Text(ours), bytesize.Text(step), why)
			}
			if why, least := copying(1024*mib, 600*mib, ours, step, 100*mib); ours == 10*mib && (why == "" || least < 100*mib) {
				t.Errorf("%s a second in steps of %s, and a fast guest: %q, %s were free", bytesize.Text(ours), bytesize.Text(step), why, bytesize.Text(least))
			}
			if why, least := copying(1024*mib, 1000*mib, ours, step, 0); why == "" || least < 64*mib && step == 1 {
				t.Errorf("%s a second in steps of %s, and too much: %q, %s were free", bytesize.Text(ours), bytesize.Text(step), why, bytesize.Text(least))
			}
		}
	}
}

// A guest that writes at a steady speed never runs out of space, and can use most of it.
func TestScratchInTime(t *testing.T) {
	const mib = 1 << 20
	for _, speed := range []int64{1, 10, 100, 1000, 3000} { // MiB/s
		size := max(1000, 10*speed) * mib
		w := scratchWatch{max: 1 << 50}
		now, used := time.Unix(0, 0), int64(0)
		for {
			w.note(scratchSample{at: now, used: used, free: size - used, size: size})
			if w.short() != "" {
				break
			}
			used += int64(w.pause().Seconds() * float64(speed*mib))
			now = now.Add(w.pause())
		}
		if left := size - used; left < speed*mib || used < size*4/10 {
			t.Errorf("at %d MiB/s it ends with %s of %s left", speed, bytesize.Text(left), bytesize.Text(size))
		}
	}
}

// trial is a guest, a third program and a point that write, in bytes and bytes a second.
type trial struct {
	free, size          int64 // at the beginning
	guest, others, ours int64 // speeds
	take                int64 // by the point
	beside              bool  // the point is on the scratch files' file system
}

// at is the state of scratch space after a time.
func (c trial) at(t time.Duration) scratchSample {
	after := func(speed int64) int64 { return int64(float64(speed) * t.Seconds()) }
	s := scratchSample{at: time.Unix(0, 0).Add(t), used: after(c.guest), size: c.size, take: c.take, has: min(c.take, after(c.ours))}
	s.free = c.free - s.used - after(c.others)
	if c.beside {
		s.free -= s.has
	}
	return s
}

// least is the minimum of free bytes until the job has ended, which takes scratchAhead;
// negative if that many were missing.
func (c trial) least() int64 {
	w := scratchWatch{max: 1 << 50}
	for t := time.Duration(0); ; t += w.pause() {
		s := c.at(t)
		s.free = max(0, s.free)
		if w.note(s); w.short() != "" {
			return c.at(t + 225*time.Millisecond).free
		}
	}
}

// A third program that fills the file system at a steady speed never takes the space that
// the guest needs, not even if the point could have taken just as much.
func TestScratchInTimeBesideAThirdProgram(t *testing.T) {
	const mib, gib = 1 << 20, 1 << 30
	for name, c := range map[string]trial{
		"the point has not begun":      {guest: 20 * mib, others: gib, take: 2 * gib},
		"the point is elsewhere":       {guest: 20 * mib, others: gib, take: 20 * gib, ours: 200 * mib},
		"the point is elsewhere, fast": {guest: 20 * mib, others: gib, take: 20 * gib, ours: 2 * gib},
		"the point is beside it":       {guest: 20 * mib, others: gib, take: 2 * gib, ours: 200 * mib, beside: true},
		"the point is beside it, fast": {guest: 20 * mib, others: gib, take: 2 * gib, ours: gib, beside: true},
		"a fast guest":                 {guest: gib, others: gib, take: 2 * gib, ours: 100 * mib, beside: true},
	} {
		t.Run(name, func(t *testing.T) {
			for c.free, c.size = gib, 100*gib; c.free < 6*gib; c.free += 16 * mib {
				if least := c.least(); least < 0 {
					t.Errorf("with %s free at the beginning %s are missing", bytesize.Text(c.free), bytesize.Text(-least))
				}
			}
		})
	}
}

// Space that is allocated ahead of the writes counts as the point's, although it may be more
// than the point will keep.
func TestScratchBesideWhatIsAllocatedAhead(t *testing.T) {
	const mib, gib = 1 << 20, 1 << 30
	w := scratchWatch{max: 100 * gib}
	w.note(scratchSample{at: time.Unix(0, 0), free: gib, size: 100 * gib, take: 8 * mib, has: 160 * mib})
	w.note(scratchSample{at: time.Unix(0, 0).Add(lookOften), free: gib - 128*mib, size: 100 * gib, take: 8 * mib, has: 160 * mib})
	if why := w.short(); why != "" {
		t.Error(why)
	}
}

func TestScratchPause(t *testing.T) {
	const gib = 1 << 30
	for _, c := range []struct {
		watch *scratchWatch
		want  time.Duration
	}{
		{watchOf(scratchWatch{max: 100 * gib}, 100*gib, [2]int64{0, 50 * gib}), lookOften}, // at what speed?
		{watchOf(scratchWatch{max: 100 * gib}, 100*gib, [2]int64{0, 50 * gib}, [2]int64{0, 50 * gib}), lookSeldom},
		{watchOf(scratchWatch{max: 100 * gib}, 100*gib, [2]int64{0, gib - 1}, [2]int64{0, gib - 1}), lookOften},
		{watchOf(scratchWatch{max: 100 * gib, limit: gib}, 100*gib, [2]int64{gib * 6 / 10, 50 * gib}, [2]int64{gib * 6 / 10, 50 * gib}), lookOften},
		{watchOf(scratchWatch{max: 100 * gib, limit: gib}, 100*gib, [2]int64{0, 50 * gib}, [2]int64{gib / 5, 50 * gib}), lookOften},
		{watchOf(scratchWatch{max: 100 * gib, limit: gib}, 100*gib, [2]int64{0, 50 * gib}, [2]int64{gib / 100, 50 * gib}), lookSeldom},
	} {
		if got := c.watch.pause(); got != c.want {
			t.Errorf("%+v: %v, want %v", c.watch.now, got, c.want)
		}
	}
}
