package backup

import (
	"strings"
	"testing"
	"time"
)

// watchOf feeds a watch with samples that are a second apart: used and free.
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
		"plenty":                    {scratchWatch{most: 100 * gib}, 100 * gib, [][2]int64{{0, 50 * gib}, {100 * mib, 49 * gib}}, ""},
		"nothing written, floor":    {scratchWatch{most: 100 * gib}, 100 * gib, [][2]int64{{0, 255 * mib}}, "255.0 MiB are free"},
		"just above the floor":      {scratchWatch{most: 100 * gib}, 100 * gib, [][2]int64{{0, 256 * mib}}, ""},
		"small file system":         {scratchWatch{most: 100 * gib}, 64 * mib, [][2]int64{{0, 9 * mib}}, ""},
		"small file system is full": {scratchWatch{most: 100 * gib}, 64 * mib, [][2]int64{{0, 7 * mib}}, "reserve of 8.0 MiB"},
		"fast guest":                {scratchWatch{most: 100 * gib}, 100 * gib, [][2]int64{{0, 6 * gib}, {gib, 5*gib - 1}}, "goes on at 1.0 GiB a second"},
		"fast guest, enough":        {scratchWatch{most: 100 * gib}, 100 * gib, [][2]int64{{0, 6 * gib}, {gib, 5 * gib}}, ""},
		"burst remembered":          {scratchWatch{most: 100 * gib}, 100 * gib, [][2]int64{{0, 5 * gib}, {gib, 4 * gib}, {gib, 4 * gib}}, "would fail"},
		"burst forgotten": {scratchWatch{most: 100 * gib}, 100 * gib,
			[][2]int64{{0, 9 * gib}, {gib, 8 * gib}, {gib, 4 * gib}, {gib, 4 * gib}, {gib, 4 * gib}, {gib, 4 * gib}, {gib, 4 * gib}, {gib, 4 * gib}, {gib, 4 * gib}, {gib, 4 * gib}, {gib, 4 * gib}}, ""},
		"others take the space":    {scratchWatch{most: 100 * gib}, 100 * gib, [][2]int64{{0, 2 * gib}, {0, gib}}, "no more than 0 bytes while the job ran, something else fills"},
		"others take more":         {scratchWatch{most: 100 * gib}, 100 * gib, [][2]int64{{0, 2 * gib}, {100 * mib, gib}}, "no more than 100.0 MiB"},
		"others take a little":     {scratchWatch{most: 100 * gib}, 100 * gib, [][2]int64{{0, 5 * gib}, {gib, 4*gib - mib}}, "the guest has overwritten 1.0 GiB"},
		"others slower than guest": {scratchWatch{most: 100 * gib}, 100 * gib, [][2]int64{{0, 9 * gib}, {gib, 7 * gib}}, ""},
		"cannot grow that far":     {scratchWatch{most: 100 * mib}, 100 * gib, [][2]int64{{0, 200 * mib}, {90 * mib, 110 * mib}}, ""},
		"below the limit":          {scratchWatch{most: 100 * gib, limit: gib}, 100 * gib, [][2]int64{{0, 50 * gib}, {100 * mib, 49 * gib}}, ""},
		"limit":                    {scratchWatch{most: 100 * gib, limit: gib}, 100 * gib, [][2]int64{{900 * mib, 50 * gib}, {960 * mib, 50 * gib}}, "limit of 1.0 GiB"},
		"first look":               {scratchWatch{most: 100 * gib, limit: gib}, 100 * gib, [][2]int64{{2 * gib, 50 * gib}}, "limit of 1.0 GiB"},
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
// how many bytes were free at the least.
func copying(size, need, ours, step, guest int64) (why string, least int64) {
	w := scratchWatch{most: 1 << 50}
	now, done, used := time.Unix(0, 0), int64(0), int64(0)
	taken := func() int64 { return min(need, (done+step-1)/step*step) }
	for least = size; ; least = min(least, size-taken()-used) {
		w.note(scratchSample{at: now, used: used, free: size - taken() - used, size: size, take: need})
		if why = w.short(); why != "" || done == need {
			return why, least
		}
		done = min(need, done+int64(w.pause().Seconds()*float64(ours)))
		used += int64(w.pause().Seconds() * float64(guest))
		now = now.Add(w.pause())
	}
}

// What the backup itself takes of a small file system does not end it if it fits;
// what the guest takes does, in time, and so does what was not expected.
func TestScratchBesideTheRepository(t *testing.T) {
	const mib = 1 << 20
	for _, step := range []int64{1, 256 * mib} {
		for _, ours := range []int64{10 * mib, 300 * mib, 3000 * mib} {
			if why, _ := copying(1024*mib, 890*mib, ours, step, 0); why != "" {
				t.Errorf("%s a second in steps of %s: %s", sizeText(ours), sizeText(step), why)
			}
			if why, least := copying(1024*mib, 600*mib, ours, step, 100*mib); ours == 10*mib && (why == "" || least < 100*mib) {
				t.Errorf("%s a second in steps of %s, and a fast guest: %q, %s were free", sizeText(ours), sizeText(step), why, sizeText(least))
			}
			if why, least := copying(1024*mib, 1000*mib, ours, step, 0); why == "" || least < 64*mib && step == 1 {
				t.Errorf("%s a second in steps of %s, and too much: %q, %s were free", sizeText(ours), sizeText(step), why, sizeText(least))
			}
		}
	}
}

// A guest that writes at a steady speed never gets to the end of the space, and
// uses most of it.
func TestScratchInTime(t *testing.T) {
	const mib = 1 << 20
	for _, speed := range []int64{1, 10, 100, 1000, 3000} { // MiB/s
		size := max(1000, 10*speed) * mib
		w := scratchWatch{most: 1 << 50}
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
			t.Errorf("at %d MiB/s it ends with %s of %s left", speed, sizeText(left), sizeText(size))
		}
	}
}

func TestScratchPause(t *testing.T) {
	const gib = 1 << 30
	for _, c := range []struct {
		watch *scratchWatch
		want  time.Duration
	}{
		{watchOf(scratchWatch{most: 100 * gib}, 100*gib, [2]int64{0, 50 * gib}), lookOften}, // at what speed?
		{watchOf(scratchWatch{most: 100 * gib}, 100*gib, [2]int64{0, 50 * gib}, [2]int64{0, 50 * gib}), lookSeldom},
		{watchOf(scratchWatch{most: 100 * gib}, 100*gib, [2]int64{0, gib - 1}, [2]int64{0, gib - 1}), lookOften},
		{watchOf(scratchWatch{most: 100 * gib, limit: gib}, 100*gib, [2]int64{gib * 6 / 10, 50 * gib}, [2]int64{gib * 6 / 10, 50 * gib}), lookOften},
		{watchOf(scratchWatch{most: 100 * gib, limit: gib}, 100*gib, [2]int64{0, 50 * gib}, [2]int64{gib / 5, 50 * gib}), lookOften},
		{watchOf(scratchWatch{most: 100 * gib, limit: gib}, 100*gib, [2]int64{0, 50 * gib}, [2]int64{gib / 100, 50 * gib}), lookSeldom},
	} {
		if got := c.watch.pause(); got != c.want {
			t.Errorf("%+v: %v, want %v", c.watch.now, got, c.want)
		}
	}
}

func TestSizeText(t *testing.T) {
	for n, want := range map[int64]string{0: "0 bytes", 1023: "1023 bytes", 1536: "1.5 KiB", 1 << 20: "1.0 MiB", 10 << 30: "10.0 GiB", 1 << 60: "1024.0 PiB"} {
		if got := sizeText(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
