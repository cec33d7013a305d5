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
		"others take the space": {scratchWatch{most: 100 * gib}, 100 * gib, [][2]int64{{0, 2 * gib}, {0, gib}}, "1.0 GiB are free"},
		"cannot grow that far":  {scratchWatch{most: 100 * mib}, 100 * gib, [][2]int64{{0, 200 * mib}, {90 * mib, 110 * mib}}, ""},
		"below the limit":       {scratchWatch{most: 100 * gib, limit: gib}, 100 * gib, [][2]int64{{0, 50 * gib}, {100 * mib, 49 * gib}}, ""},
		"limit":                 {scratchWatch{most: 100 * gib, limit: gib}, 100 * gib, [][2]int64{{900 * mib, 50 * gib}, {960 * mib, 50 * gib}}, "limit of 1.0 GiB"},
		"first look":            {scratchWatch{most: 100 * gib, limit: gib}, 100 * gib, [][2]int64{{2 * gib, 50 * gib}}, "limit of 1.0 GiB"},
	} {
		t.Run(name, func(t *testing.T) {
			got := watchOf(c.watch, c.size, c.samples...).short()
			if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
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
