package graft

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/qcow2/chain"
)

// unit is the smallest cluster, so that tables and refcount blocks are full soon: an L2
// table describes 2 MiB, a cluster of the L1 table 1 GiB, a refcount block counts 8 MiB of
// the file, a cluster of the refcount table 4 GiB.
const unit = 4096

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// whole is a File that takes what a File gets, and counts it.
type whole struct {
	*os.File
	written int
}

func (f *whole) WriteAt(p []byte, off int64) (int, error) {
	if len(p) != unit || off%unit != 0 {
		return 0, fmt.Errorf("%d bytes at offset %d: not a cluster", len(p), off)
	}
	f.written++
	return f.File.WriteAt(p, off)
}

// model is an image and what it should hold.
type model struct {
	t        testing.TB
	path     string
	size     int64
	backed   bool
	clusters map[int64][]byte // nil: a zero cluster
	encoder  *zstd.Encoder
}

func newModel(t testing.TB, size int64, backed bool) *model {
	t.Helper()
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	check(t, err)
	m := &model{t: t, path: filepath.Join(t.TempDir(), "image.qcow2"), size: size, backed: backed, clusters: map[int64][]byte{}, encoder: encoder}
	o := qcow2.Options{VirtualSize: size, ClusterSize: unit}
	if backed {
		below := filepath.Join(filepath.Dir(m.path), "below.qcow2")
		write(t, below, qcow2.Options{VirtualSize: size, ClusterSize: unit}, func(*qcow2.Writer) {})
		o.BackingFile, o.BackingFormat = "below.qcow2", "qcow2"
	}
	write(t, m.path, o, func(w *qcow2.Writer) {
		if backed { // tables that are shared
			check(t, w.Zero(0, min(size, 6<<20)))
		}
	})
	for i := int64(0); backed && i*unit < min(size, 6<<20); i++ {
		m.clusters[i] = nil
	}
	return m
}

func write(t testing.TB, path string, o qcow2.Options, fill func(*qcow2.Writer)) {
	t.Helper()
	f, err := os.Create(path)
	check(t, err)
	defer f.Close()
	w, err := qcow2.NewWriter(f, o)
	check(t, err)
	fill(w)
	_, err = w.Finish(nil)
	check(t, err)
}

// edit opens the image, changes it and finishes it. It returns how many clusters package
// graft wrote.
func (m *model) edit(size int64, change func(g *Image, f *os.File)) int {
	t := m.t
	t.Helper()
	f, err := os.OpenFile(m.path, os.O_RDWR, 0)
	check(t, err)
	defer f.Close()
	info, err := f.Stat()
	check(t, err)
	file := &whole{File: f}
	g, err := Open(file, info.Size())
	check(t, err)
	data, zero := m.holds()
	check(t, g.Resize(size))
	m.size = size
	for i := range m.clusters {
		if i*unit >= size {
			delete(m.clusters, i)
		}
	}
	change(g, f)
	s, err := g.Finish()
	check(t, err)
	check(t, f.Truncate(s.Length))
	for offset, length := range g.Freed(7) {
		_, err := f.WriteAt(bytes.Repeat([]byte{0xEE}, int(length)), offset) // nobody may read it
		check(t, err)
	}
	nowData, nowZero := m.holds()
	if s.DataBytes != nowData-data || s.ZeroBytes != nowZero-zero {
		t.Fatalf("%d bytes of data and %d of zeros more were counted, want %d and %d", s.DataBytes, s.ZeroBytes, nowData-data, nowZero-zero)
	}
	return file.written
}

func (m *model) holds() (data, zero int64) {
	for i, p := range m.clusters {
		if n := min(unit, m.size-i*unit); p != nil {
			data += n
		} else {
			zero += n
		}
	}
	return data, zero
}

// put changes one cluster of a table.
func (m *model) put(table *Table, f *os.File, i int64, kind int, r *rand.Rand) {
	t, k := m.t, int(i%(unit/8))
	t.Helper()
	p := make([]byte, unit)
	for at := 0; at < 8+r.IntN(unit/2); at += 8 {
		binary.LittleEndian.PutUint64(p[at:], r.Uint64())
	}
	switch kind {
	case 0:
		check(t, table.Zero(k))
		if delete(m.clusters, i); m.backed {
			m.clusters[i] = nil
		}
		return
	case 1:
		at, err := table.Raw(k)
		check(t, err)
		_, err = f.WriteAt(p, at)
		check(t, err)
	case 2:
		check(t, table.Packed(k, m.encoder.EncodeAll(p, nil)))
	}
	m.clusters[i] = p
}

// prove compares the image with the model, by qemu-img check and by reading it.
func (m *model) prove() {
	t := m.t
	t.Helper()
	if out, err := exec.Command("qemu-img", "check", m.path).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img check: %v\n%s", err, out)
	}
	f, err := os.Open(m.path)
	check(t, err)
	defer f.Close()
	c, err := chain.Open([]io.ReaderAt{f})
	check(t, err)
	if c.Size() != m.size {
		t.Fatalf("the disk has %d bytes, want %d", c.Size(), m.size)
	}
	r := c.NewReader()
	got, found := make([]byte, unit), 0
	for n := range c.Windows() {
		w, err := c.Window(n)
		check(t, err)
		for k := 0; w != nil && k < w.Len(); k++ {
			i := w.At(k) / unit
			want, ok := m.clusters[i]
			if state := w.State(k); (state != chain.Absent) != ok || ok && (state == chain.Data) != (want != nil) {
				t.Fatalf("cluster %d has state %d", i, state)
			}
			if ok {
				found++
			}
			if want == nil {
				continue
			}
			check(t, r.Read(got, []int64{w.At(k)}))
			if !bytes.Equal(got, want) {
				t.Fatalf("cluster %d is not what was put there", i)
			}
		}
	}
	if found != len(m.clusters) {
		t.Fatalf("%d clusters were found, want %d", found, len(m.clusters))
	}
}

func TestRandomEdits(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for _, backed := range []bool{false, true} {
		m := newModel(t, 20<<20, backed)
		for range 60 {
			size := m.size
			if r.IntN(2) == 0 {
				size = []int64{512, 2 << 20, 9<<20 + 512, 100 << 20, 1<<30 + 8<<20, 3 << 30}[r.IntN(6)] + int64(r.IntN(1<<20))*512%(3<<20)
			}
			m.edit(size, func(g *Image, f *os.File) {
				tables := (size + 2<<20 - 1) / (2 << 20)
				for range r.IntN(8) {
					n := r.Int64N(tables)
					if r.IntN(2) == 0 {
						n = r.Int64N(min(tables, 6))
					}
					table, err := g.Table(n)
					check(t, err)
					m.change(table, f, r)
					check(t, table.Close())
				}
			})
			m.prove()
		}
	}
}

// change changes clusters here and there in a table, or all of it.
func (m *model) change(table *Table, f *os.File, r *rand.Rand) {
	first := table.index * (unit / 8)
	n := min(unit/8, (m.size+unit-1)/unit-first)
	if r.IntN(3) == 0 {
		kind := r.IntN(3)
		for i := range n {
			m.put(table, f, first+i, kind, r)
		}
		return
	}
	for range r.IntN(60) {
		m.put(table, f, first+r.Int64N(n), r.IntN(3), r)
	}
}

// The refcount table becomes longer than its cluster, and more refcount blocks are touched
// than are kept in memory. Nothing is written of the data: the file is sparse.
func TestLongFile(t *testing.T) {
	const size = 5 << 30
	m := newModel(t, 1<<20, false)
	written := m.edit(size, func(g *Image, f *os.File) {
		for n := range int64(size / (2 << 20)) {
			table, err := g.Table(n)
			check(t, err)
			for k := range unit / 8 {
				_, err := table.Raw(k)
				check(t, err)
			}
			check(t, table.Close())
		}
		g.data = 0 // the model knows none of it
	})
	out, err := exec.Command("qemu-img", "check", m.path).CombinedOutput()
	if err != nil {
		t.Fatalf("qemu-img check: %v\n%s", err, out)
	}
	if most := 2560 + 700*2 + 20; written > most {
		t.Errorf("%d clusters were written, want at most %d", written, most)
	}
	// A cluster here and one there: all refcount blocks are read again.
	m.edit(size, func(g *Image, f *os.File) {
		for _, n := range rand.New(rand.NewPCG(1, 1)).Perm(size / (2 << 20)) {
			table, err := g.Table(int64(n))
			check(t, err)
			check(t, table.Zero(n%512))
			check(t, table.Close())
		}
		g.data = 0
	})
	if out, err := exec.Command("qemu-img", "check", m.path).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img check: %v\n%s", err, out)
	}
}

// An image that QEMU made with what package qcow2 does not use is refused.
func TestForeignImages(t *testing.T) {
	for _, options := range []string{"lazy_refcounts=on", "extended_l2=on", "refcount_bits=1", "compat=0.10"} {
		path := filepath.Join(t.TempDir(), "image.qcow2")
		if out, err := exec.Command("qemu-img", "create", "-f", "qcow2", "-o", options, path, "1M").CombinedOutput(); err != nil {
			t.Fatalf("qemu-img create: %v\n%s", err, out)
		}
		f, err := os.Open(path)
		check(t, err)
		defer f.Close()
		info, err := f.Stat()
		check(t, err)
		if _, err := Open(&whole{File: f}, info.Size()); err == nil {
			t.Errorf("an image with %s was taken", options)
		}
	}
}

// Clusters that are freed are used again at once, from the front of the file.
func TestFreedClustersAreUsedAgain(t *testing.T) {
	m := newModel(t, 8<<20, false)
	r := rand.New(rand.NewPCG(1, 2))
	fill := func(g *Image, f *os.File, n int64, kind int) {
		table, err := g.Table(n)
		check(t, err)
		for k := range int64(unit / 8) {
			m.put(table, f, n*unit/8+k, kind, r)
		}
		check(t, table.Close())
	}
	m.edit(8<<20, func(g *Image, f *os.File) {
		fill(g, f, 0, 1)
		fill(g, f, 1, 1)
	})
	for range 3 {
		m.edit(8<<20, func(g *Image, f *os.File) {
			before := g.space.end
			for _, move := range [][2]int64{{1, 2}, {0, 3}, {2, 1}, {3, 0}} {
				fill(g, f, move[0], 0)
				fill(g, f, move[1], 1)
			}
			if g.space.end != before {
				t.Errorf("the file grew from %d to %d clusters", before, g.space.end)
			}
		})
		m.prove()
	}
}

// A table that must lie in one piece is not where a refcount block comes in between.
func TestL1TableAtTheBorderOfARefcountBlock(t *testing.T) {
	for missing := range int64(5) {
		m := newModel(t, 16<<20, false)
		r := rand.New(rand.NewPCG(1, 2))
		m.edit(16<<20, func(g *Image, f *os.File) {
			for n := int64(0); g.space.end < 2048-missing-1; n++ { // and an L2 table
				table, err := g.Table(n)
				check(t, err)
				for k := int64(0); k < unit/8 && g.space.end < 2048-missing-1; k++ {
					m.put(table, f, n*unit/8+k, 1, r)
				}
				check(t, table.Close())
			}
		})
		m.edit(4<<30, func(*Image, *os.File) {})
		m.prove()
	}
}

// A table of zero clusters that nobody uses any more is not used again: its host cluster
// holds something else.
func TestTableOfZeroClustersThatWasFreed(t *testing.T) {
	m := newModel(t, 16<<20, true)
	r := rand.New(rand.NewPCG(1, 2))
	m.edit(16<<20, func(g *Image, f *os.File) {
		fill := func(n int64, kind int) {
			table, err := g.Table(n)
			check(t, err)
			for k := range int64(unit / 8) {
				m.put(table, f, n*unit/8+k, kind, r)
			}
			check(t, table.Close())
		}
		fill(4, 0)
		fill(4, 1)
		fill(5, 2)
		fill(6, 0)
		fill(7, 0)
	})
	m.prove()
}

// A disk that shrinks leaves no clusters without use at the end of the file.
func TestFileEndsWithItsLastCluster(t *testing.T) {
	m := newModel(t, 16<<20, false)
	r := rand.New(rand.NewPCG(1, 2))
	m.edit(16<<20, func(g *Image, f *os.File) {
		for n := range int64(8) {
			table, err := g.Table(n)
			check(t, err)
			for k := range int64(unit / 8) {
				m.put(table, f, n*unit/8+k, 1+r.IntN(2), r)
			}
			check(t, table.Close())
		}
	})
	m.edit(1<<20, func(*Image, *os.File) {})
	m.prove()
	info, err := os.Stat(m.path)
	check(t, err)
	if most := int64(2049 * unit); info.Size() > most { // the second refcount block, which counts itself
		t.Errorf("the file has %d bytes, want at most %d", info.Size(), most)
	}
}
