package chain

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/virtbackup/virtbackup/qcow2"
)

// randomBatch picks clusters as a copy does: mostly neighbours, ascending, some
// of them behind the end of the disk.
func randomBatch(rnd *rand.Rand, size, cluster int64) []int64 {
	var offsets []int64
	at := rnd.Int64N(size/cluster+2) * cluster
	for range 1 + rnd.IntN(40) {
		offsets = append(offsets, at)
		at += cluster
		if rnd.IntN(6) == 0 {
			at += rnd.Int64N(6) * cluster
		}
	}
	return offsets
}

// Readers side by side read what the chain shows, in batches of any shape.
func TestChainReader(t *testing.T) {
	for seed := range uint64(5) {
		rnd := rand.New(rand.NewPCG(seed, 6))
		cluster := []int{4096, 65536}[rnd.IntN(2)]
		var sizes []int64
		for range 1 + rnd.IntN(4) {
			sizes = append(sizes, 512*(1+rnd.Int64N(4<<20/512)))
		}
		images, shown := chainOf(t, rnd, cluster, sizes...)
		c, err := Open(images)
		if err != nil {
			t.Fatal(err)
		}
		padded := append(shown, make([]byte, 300*cluster)...)
		var all sync.WaitGroup
		for n := range uint64(3) {
			rnd := rand.New(rand.NewPCG(seed, 7+n))
			all.Go(func() {
				r := c.NewReader()
				for range 40 {
					offsets := randomBatch(rnd, c.Size(), int64(cluster))
					buf := bytes.Repeat([]byte{0xee}, len(offsets)*cluster)
					if err := r.Read(buf, offsets); err != nil {
						t.Error(err)
						return
					}
					for i, off := range offsets {
						if !bytes.Equal(buf[i*cluster:(i+1)*cluster], padded[off:off+int64(cluster)]) {
							t.Errorf("seed %d, sizes %d: the cluster at %d, number %d of %d, is another", seed, sizes, off, i, offsets)
							return
						}
					}
				}
			})
		}
		all.Wait()
	}
}

// brokenFile fails to read from an offset on, or has garbage there.
type brokenFile struct {
	io.ReaderAt
	from int64
	err  error
}

func (f *brokenFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.ReaderAt.ReadAt(p, off)
	if off+int64(len(p)) <= f.from {
		return n, err
	}
	if f.err != nil {
		return 0, f.err
	}
	for i := range p {
		p[i] = 0x55
	}
	return n, err
}

// Errors say whether the chain is wrong or could not be read, compressed and not.
func TestChainReaderErrors(t *testing.T) {
	boom := errors.New("boom")
	for _, compressed := range []bool{false, true} {
		f, err := os.Create(filepath.Join(t.TempDir(), "image"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		w, err := qcow2.NewWriter(f, qcow2.Options{VirtualSize: 1 << 20, NewCompressor: frames(compressed)})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Write([]int64{0}, bytes.Repeat([]byte("text"), 1<<14)); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Finish(nil); err != nil {
			t.Fatal(err)
		}
		broken := &brokenFile{ReaderAt: f, from: 1 << 62}
		c, err := Open([]io.ReaderAt{broken})
		if err != nil {
			t.Fatal(err)
		}
		var chain *Error
		buf := make([]byte, 1<<16)
		r := c.NewReader()
		if err := r.Read(buf, []int64{0}); err != nil {
			t.Fatal(err)
		}
		fresh, err := Open([]io.ReaderAt{broken}) // it has not looked at the table yet
		if err != nil {
			t.Fatal(err)
		}
		broken.from, broken.err = 0, boom
		if err := r.Read(buf, []int64{0}); errors.As(err, &chain) || !errors.Is(err, boom) {
			t.Errorf("%v: %v", compressed, err)
		}
		if _, err := fresh.Window(0); errors.As(err, &chain) || !errors.Is(err, boom) {
			t.Errorf("%v: %v", compressed, err)
		}
		if broken.err = nil; compressed {
			if err := r.Read(buf, []int64{0}); !errors.As(err, &chain) {
				t.Errorf("garbage in place of a frame: %v", err)
			}
		}
	}
}
