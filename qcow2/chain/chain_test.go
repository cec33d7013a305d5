package chain

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtbackup/virtbackup/qcow2"
)

// chainOf writes images chained onto each other, base first, of random sizes
// and contents, and returns them with what the chain shows.
func chainOf(t *testing.T, rnd *rand.Rand, cluster int, sizes ...int64) (images []io.ReaderAt, shown []byte) {
	t.Helper()
	dir := t.TempDir()
	for i, size := range sizes {
		f, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		o := qcow2.Options{VirtualSize: size, ClusterSize: cluster}
		if i > 0 {
			o.BackingFile, o.BackingFormat = fmt.Sprint(i-1), "qcow2"
		}
		if rnd.IntN(2) == 0 {
			o.NewCompressor = frames(true)
		}
		w, err := qcow2.NewWriter(f, o)
		if err != nil {
			t.Fatal(err)
		}
		shown = append(shown[:min(size, int64(len(shown)))], make([]byte, max(0, size-int64(len(shown))))...)
		writeRandom(t, rnd, w, shown)
		stats, err := w.Finish(nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(stats.FileBytes); err != nil {
			t.Fatal(err)
		}
		images = append(images, f)
	}
	return images, shown
}

// writeRandom changes some clusters of an image, and of what is shown.
func writeRandom(t *testing.T, rnd *rand.Rand, w *qcow2.Writer, shown []byte) {
	t.Helper()
	cluster := int64(w.ClusterSize())
	size := int64(len(shown))
	for off := int64(0); off < size; off += cluster {
		n := min(cluster, size-off)
		var err error
		switch rnd.IntN(8) {
		case 0:
			clear(shown[off : off+n])
			err = w.Zero(off, n)
		case 1, 2:
			data := make([]byte, cluster)
			for i := range data[:n] {
				data[i] = byte(1 + rnd.IntN(3)*rnd.IntN(100))
			}
			copy(shown[off:], data[:n])
			err = w.Write([]int64{off}, data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// What a chain says it has is what it shows, compressed and not, with sizes that
// go up and down, and with a part of it that has no tables.
func TestChain(t *testing.T) {
	for seed := range uint64(8) {
		rnd := rand.New(rand.NewPCG(seed, 5))
		cluster := []int{4096, 8192}[rnd.IntN(2)]
		var sizes []int64
		for range 1 + rnd.IntN(4) {
			sizes = append(sizes, 512*(1+rnd.Int64N(8<<20/512)))
		}
		images, shown := chainOf(t, rnd, cluster, sizes...)
		c, err := Open(images)
		if err != nil {
			t.Fatal(err)
		}
		if c.Size() != int64(len(shown)) || c.ClusterSize() != int64(cluster) {
			t.Fatalf("seed %d: %d bytes in clusters of %d", seed, c.Size(), c.ClusterSize())
		}
		got := make([]byte, len(shown))
		r := c.NewReader()
		for i := range c.Windows() {
			w, err := c.Window(i)
			if err != nil {
				t.Fatal(err)
			}
			for k := 0; w != nil && k < w.Len(); k++ {
				if w.State(k) != Data {
					continue
				}
				p := bytes.Repeat([]byte{0xee}, cluster)
				if err := r.Read(p, []int64{w.At(k)}); err != nil {
					t.Fatal(err)
				}
				copy(got[w.At(k):], p)
				if w.At(k)+int64(cluster) > c.Size() && !bytes.Equal(p[c.Size()-w.At(k):], make([]byte, w.At(k)+int64(cluster)-c.Size())) {
					t.Fatalf("seed %d: the last cluster has something behind the end", seed)
				}
			}
		}
		if !bytes.Equal(got, shown) {
			t.Fatalf("seed %d, sizes %d: it shows something else", seed, sizes)
		}
	}
}

// A large disk that is nearly empty: windows without data are nil.
func TestChainOfEmptyDisk(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := qcow2.NewWriter(f, qcow2.Options{VirtualSize: 1 << 40})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Write([]int64{5 << 30}, bytes.Repeat([]byte{1}, 1<<16)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Finish(nil); err != nil {
		t.Fatal(err)
	}
	c, err := Open([]io.ReaderAt{f})
	if err != nil || c.Windows() != 2048 {
		t.Fatalf("%d windows, %v", c.Windows(), err)
	}
	for i := range c.Windows() {
		w, err := c.Window(i)
		if err != nil || (w != nil) != (i == 10) {
			t.Errorf("window %d: %v, %v", i, w, err)
		}
	}
}

func TestChainErrors(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 5))
	images, _ := chainOf(t, rnd, 4096, 1<<20)
	other, _ := chainOf(t, rnd, 8192, 1<<20)
	var chain *Error
	for name, images := range map[string][]io.ReaderAt{
		"none":           nil,
		"no image":       {bytes.NewReader(make([]byte, 4096))},
		"cluster sizes":  {images[0], other[0]},
		"ends too early": {io.NewSectionReader(images[0], 0, 4096)},
	} {
		if _, err := Open(images); !errors.As(err, &chain) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
