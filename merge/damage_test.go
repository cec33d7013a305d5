package merge

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/diskimage"
	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/limit"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/qcow2/chain"
)

// Where images are damaged in what is read, a merge says so, and so does a survey of their
// tables, which reads nothing else.
func TestDamage(t *testing.T) {
	for _, compressed := range []bool{false, true} {
		pristine := newWorld(t, 1, 65536)
		pristine.add(8<<20, compressed, func(p *painter) { p.data(0, 100, false) })
		pristine.add(8<<20, compressed, func(p *painter) { p.data(0, 50, false) })
		h := headerOf(t, pristine.links[0])
		l1 := make([]byte, 8)
		f, err := os.Open(pristine.links[0].Path)
		must(t, err)
		_, err = f.ReadAt(l1, h.L1Offset)
		must(t, err)
		f.Close()
		l2 := int64(l1[1])<<48 | int64(l1[2])<<40 | int64(l1[3])<<32 | int64(l1[4])<<24 | int64(l1[5])<<16 | int64(l1[6])<<8
		for _, tt := range []struct {
			name   string
			at     int64
			tables bool
		}{{"header", 30, true}, {"L1", h.L1Offset, true}, {"L2", l2 + 60*8, true}, {"data", dataOf(t, pristine.links[0], 70), false}} {
			flip(t, pristine.links[0].Path, tt.at)
			run := pristine.run(0, 1)
			must(t, os.RemoveAll(filepath.Join(pristine.dir, "merged")))
			_, err := Rewrite(context.Background(), run, pristine.create("merged"), Options{})
			var damaged *damage.Error
			if !errors.As(err, &damaged) || !strings.Contains(err.Error(), "vm1/check1/vda.qcow2") {
				t.Errorf("compressed %v, %s: %v", compressed, tt.name, err)
			}
			_, err = Survey(context.Background(), run, Options{})
			if errors.As(err, &damaged) != tt.tables || !tt.tables && err != nil {
				t.Errorf("compressed %v, %s: a survey returns %v", compressed, tt.name, err)
			}
			flip(t, pristine.links[0].Path, tt.at) // as it was
		}
	}
}

// dataOf is where a cluster of an image lies.
func dataOf(t *testing.T, l diskimage.Link, k int) int64 {
	t.Helper()
	images, _, closeImages, err := diskimage.OpenChain(context.Background(), []diskimage.Link{l}, hashlist.ReadOptions{})
	must(t, err)
	defer closeImages()
	w, err := images.Window(0)
	must(t, err)
	if w.State(k) != chain.Data {
		t.Fatal("no data there")
	}
	return w.HostOffset(k)
}

// Damage of the data of a cluster that is below the run, but has to be copied.
func TestDamageBelow(t *testing.T) {
	w := grown(t, func(p *painter) { p.data(0, 6, true) }, func(*painter) {})
	flip(t, w.links[0].Path, dataOf(t, w.links[0], 3))
	_, err := Rewrite(context.Background(), w.run(1, 2), w.create("merged"), Options{})
	var damaged *damage.Error
	if !errors.As(err, &damaged) || !strings.Contains(err.Error(), "vm1/check1/vda.qcow2") {
		t.Error(err)
	}
}

// An image that is gone, or that is no chain with the others, is an error without damage.
func TestBadChains(t *testing.T) {
	w := newWorld(t, 1, 65536)
	w.add(1<<20, false, func(p *painter) { p.data(0, 3, false) })
	other := newWorld(t, 1, 4096)
	other.add(1<<20, false, func(p *painter) { p.data(0, 3, false) })
	w.add(1<<20, false, func(p *painter) { p.data(0, 3, false) })
	mixed := w.run(0, 1)
	mixed.Links = append(mixed.Links[:0:0], other.links[0], w.links[1])
	var noChain *chain.Error
	if _, err := Rewrite(context.Background(), mixed, w.create("merged"), Options{}); !errors.As(err, &noChain) {
		t.Error(err)
	}
	must(t, os.Remove(w.links[0].Path))
	if _, err := Rewrite(context.Background(), w.run(0, 1), w.create("again"), Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// A merge that is cancelled ends, wherever it is, and leaves no goroutine.
func TestCancel(t *testing.T) {
	w := newWorld(t, 1, 65536)
	w.add(64<<20, true, func(p *painter) {
		for at := 0; at < 1024; at += 64 {
			p.data(at, 64, at%128 == 0)
		}
	})
	before, boom := runtime.NumGoroutine(), errors.New("boom")
	for _, after := range []int64{0, 1, 5 << 20, 40 << 20} {
		ctx, cancel := context.WithCancelCause(context.Background())
		if after == 0 {
			cancel(boom)
		}
		must(t, os.RemoveAll(filepath.Join(w.dir, "merged")))
		_, err := Rewrite(ctx, w.run(0, 0), w.create("merged"), Options{Progress: func(n int64) {
			if n >= after {
				cancel(boom)
			}
		}})
		if !errors.Is(err, boom) {
			t.Errorf("cancelled after %d bytes: %v", after, err)
		}
		if _, err := Survey(ctx, w.run(0, 0), Options{}); !errors.Is(err, boom) {
			t.Errorf("survey: %v", err)
		}
	}
	for range 100 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), before)
}

// Errors of the file that is written end the merge.
func TestRewriteIntoAClosedImage(t *testing.T) {
	w := newWorld(t, 1, 65536)
	w.add(8<<20, false, func(p *painter) { p.data(0, 100, false) })
	im := w.create("merged")
	must(t, im.Close())
	if _, err := Rewrite(context.Background(), w.run(0, 0), im, Options{}); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
}

// Progress is that of the guest's bytes, and the rate that of what is copied.
func TestProgressAndRate(t *testing.T) {
	w := newWorld(t, 1, 65536)
	w.add(8<<20, true, func(p *painter) { p.data(0, 64, true); p.data(64, 64, false) })
	var most atomic.Int64
	start := time.Now()
	o := Options{Limits: limit.New(16 << 20), Progress: func(n int64) { most.Store(max(most.Load(), n)) }}
	_, err := Rewrite(context.Background(), w.run(0, 0), w.create("merged"), o)
	must(t, err)
	// 4 MiB of noise at 16 MiB/s, and frames that are small.
	if took := time.Since(start); took < 240*time.Millisecond {
		t.Errorf("it took %v", took)
	}
	if most.Load() != 8<<20 {
		t.Errorf("told of %d bytes", most.Load())
	}
}

// A list that is damaged is a warning: what it covers is proven by the digest.
func TestWarn(t *testing.T) {
	w := newWorld(t, 1, 65536)
	w.add(8<<20, false, func(p *painter) { p.data(0, 100, false) })
	flip(t, w.links[0].HashesPath(), 100)
	var warned []string
	_, err := Rewrite(context.Background(), w.run(0, 0), w.create("merged"), Options{Warn: func(m string) { warned = append(warned, m) }})
	if err != nil || len(warned) != 1 || !strings.Contains(warned[0], "vda.hashes") {
		t.Errorf("%q, %v", warned, err)
	}
}

// A survey reads tables only.
func TestSurveyReadsTablesOnly(t *testing.T) {
	w := newWorld(t, 1, 65536)
	w.add(64<<20, false, func(p *painter) {
		for at := 0; at < 1024; at += 64 {
			p.data(at, 64, true)
		}
	})
	var read atomic.Int64
	count := func(path string, _ int64, p []byte) {
		if strings.HasSuffix(path, manifest.ImageSuffix) {
			read.Add(int64(len(p)))
		}
	}
	directio.OnRead.Store(&count)
	defer directio.OnRead.Store(nil)
	c, err := Survey(context.Background(), w.run(0, 0), Options{})
	must(t, err)
	if c.Total != 64<<20 || c.Kept != 64<<20 || read.Load() > 1<<20 || read.Load() == 0 {
		t.Errorf("%+v, read %d bytes", c, read.Load())
	}
}
