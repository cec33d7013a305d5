package qcow2

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
)

// sparseModel is a raw file with holes for what was not written.
type sparseModel struct {
	t    *testing.T
	file *os.File
}

func newSparseModel(t *testing.T, path string, size int64) *sparseModel {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return &sparseModel{t, f}
}

func (m *sparseModel) write(p []byte, offset int64) {
	m.t.Helper()
	if _, err := m.file.WriteAt(p, offset); err != nil {
		m.t.Fatal(err)
	}
}

// Tables that left memory are in the image, also where they were touched again
// afterwards, and in the right order or not.
func TestSpilledTables(t *testing.T) {
	for _, test := range []struct {
		name    string
		shuffle bool
	}{{"guest order", false}, {"any order", true}} {
		t.Run(test.name, func(t *testing.T) {
			r := newRand(t)
			const size, n = int64(64 << 30), 400 // 128 tables
			offsets := make([]int64, n)
			for i, c := range r.Perm(int(size / n / (64 << 10)))[:n] {
				offsets[i] = int64(i)*(size/n)&^(64<<10-1) + int64(c)*64<<10
			}
			if test.shuffle {
				r.Shuffle(n, func(i, j int) { offsets[i], offsets[j] = offsets[j], offsets[i] })
			}
			spillTables(t, r, size, offsets, test.shuffle)
		})
	}
}

func spillTables(t *testing.T, r *rand.Rand, size int64, offsets []int64, reloads bool) {
	dir := t.TempDir()
	m := newSparseModel(t, filepath.Join(dir, "raw"), size)
	w, f := newImage(t, dir, "a.qcow2", Options{VirtualSize: size})
	w.tables.limit = 20
	data := make([]byte, 64<<10)
	for _, offset := range offsets {
		fillRandom(r, data)
		m.write(data, offset)
		if err := w.Write([]int64{offset}, data); err != nil {
			t.Fatal(err)
		}
		if n := w.tables.recent.Len(); n > 20 || n != len(w.tables.resident) {
			t.Fatalf("%d tables in memory", n)
		}
	}
	finish(t, w, f)
	if reloads != (f.reads > 0) {
		t.Errorf("%d reads of tables", f.reads)
	}
	seen := map[int64]bool{}
	for _, c := range f.writes {
		if seen[c.offset] && c.offset != 0 && !reloads {
			t.Errorf("the range at offset %d was written more than once", c.offset)
		}
		seen[c.offset] = true
	}
	qemuImg(t, "check", f.file.Name())
	qemuImg(t, "compare", "-f", "qcow2", "-F", "raw", f.file.Name(), m.file.Name())
}

// A cluster that is written twice is found even where its table has left memory.
func TestWrittenTwiceIsFoundInSpilledTables(t *testing.T) {
	w, _ := newImage(t, t.TempDir(), "a.qcow2", Options{VirtualSize: 1 << 30, ClusterSize: 4096})
	w.tables.limit = 1
	data := make([]byte, 4096)
	for offset := int64(0); offset < 1<<30; offset += 2 << 20 {
		if err := w.Write([]int64{offset}, data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Write([]int64{4 << 20}, data); err == nil {
		t.Error("no error")
	}
}

// A disk that was discarded as a whole hides its backing file with one table,
// or with a few where there are more tables than a refcount counts.
func TestZeroTablesAreShared(t *testing.T) {
	dir := t.TempDir()
	const size = int64(65535+3)*(2<<20) + 4096 // L2 tables of clusters of 4 KiB, and a bit
	m := newSparseModel(t, filepath.Join(dir, "raw"), size)
	base := newSparseModel(t, filepath.Join(dir, "base"), size)
	data := make([]byte, 2<<20)
	fillRandom(newRand(t), data)
	base.write(data, 10<<20)
	base.write(data, size-int64(len(data)))
	w, f := newImage(t, dir, "a.qcow2", Options{VirtualSize: size, ClusterSize: 4096, BackingFile: "base", BackingFormat: "raw"})
	m.write(data[:4096], 5<<20)
	for _, err := range []error{
		w.Write([]int64{5 << 20}, data[:4096]),
		w.Zero(0, 5<<20),
		w.Zero(5<<20+4096, size-5<<20-4096),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if stats := finish(t, w, f); stats.FileBytes > 1<<20 {
		t.Errorf("a file of %d bytes", stats.FileBytes)
	}
	qemuImg(t, "check", f.file.Name())
	qemuImg(t, "compare", "-f", "qcow2", "-F", "raw", f.file.Name(), m.file.Name())
	if err := w.tables.mapZero(0, 1); err == nil {
		t.Error("no error for a cluster that is zero already")
	}
}

// discardFile counts what is written and keeps nothing. It cannot be read: a
// copy in guest order never needs to.
type discardFile struct {
	mu    sync.Mutex
	bytes int64
}

func (f *discardFile) WriteAt(p []byte, _ int64) (int, error) {
	f.mu.Lock()
	f.bytes += int64(len(p))
	f.mu.Unlock()
	return len(p), nil
}

func (f *discardFile) ReadAt([]byte, int64) (int, error) {
	return 0, errors.New("nothing was kept")
}

// A disk of 8 TiB with a cluster in every 32 MiB, hence every one of its 16384
// L2 tables in use: a gigabyte of them, of which few stay in memory. More
// clusters would be more entries in the same tables.
func TestMemory(t *testing.T) {
	for _, compressed := range []bool{false, true} {
		testMemory(t, Options{VirtualSize: 8 << 40, BackingFile: "b", BackingFormat: "raw", NewCompressor: frames(compressed)})
	}
}

func testMemory(t *testing.T, o Options) {
	t.Helper()
	const step, limit = int64(32 << 20), 40 << 20
	size := o.VirtualSize
	f := &discardFile{}
	before := heap()
	w, err := NewWriter(f, o)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 64<<10)
	peak := int64(0)
	for i := int64(0); i < size/step; i++ {
		if i%512 == 0 {
			err = w.Write([]int64{i * step}, data)
		} else {
			err = w.Zero(i*step, 64<<10)
		}
		if err != nil {
			t.Fatal(err)
		}
		if i%(size/step/8) == 0 {
			peak = max(peak, heap()-before)
		}
	}
	_, err = w.Finish(func() error { peak = max(peak, heap()-before); return nil })
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d MiB of heap at most, %d MiB written", peak>>20, f.bytes>>20)
	if peak > limit {
		t.Errorf("%d MiB of heap, want at most %d", peak>>20, limit>>20)
	}
	if f.bytes < 1<<30 {
		t.Errorf("%d bytes written: the tables were not", f.bytes)
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
