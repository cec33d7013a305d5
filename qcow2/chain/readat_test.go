package chain

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
)

// randomChain is one of 1 to 4 images, of which some are compressed.
func randomChain(t *testing.T, rnd *rand.Rand) (images []io.ReaderAt, shown []byte) {
	t.Helper()
	cluster := []int{4096, 65536}[rnd.IntN(2)]
	var sizes []int64
	for range 1 + rnd.IntN(4) {
		sizes = append(sizes, 512*(1+rnd.Int64N(2<<20/512)))
	}
	return chainOf(t, rnd, cluster, sizes...)
}

// ReadAt reads what the chain shows, at any offset and of any length, up to the end of the disk.
func TestReadAt(t *testing.T) {
	for seed := range uint64(8) {
		rnd := rand.New(rand.NewPCG(seed, 8))
		images, shown := randomChain(t, rnd)
		c, err := Open(images)
		if err != nil {
			t.Fatal(err)
		}
		r := c.NewReader()
		for range 300 {
			off := rnd.Int64N(c.Size() + 10)
			if rnd.IntN(3) == 0 {
				off = off / c.ClusterSize() * c.ClusterSize()
			}
			p := bytes.Repeat([]byte{0xee}, rnd.IntN(1<<rnd.IntN(20)+1))
			want := shown[min(off, c.Size()):min(off+int64(len(p)), c.Size())]
			n, err := r.ReadAt(p, off)
			if n != len(want) || !bytes.Equal(p[:n], want) || (err == io.EOF) != (n < len(p)) || err != nil && err != io.EOF {
				t.Fatalf("seed %d: %d bytes at offset %d of %d: got %d, %v", seed, len(p), off, c.Size(), n, err)
			}
		}
		if _, err := r.ReadAt(make([]byte, 1), -1); err == nil {
			t.Error("a negative offset is no error")
		}
	}
}

// An error is returned for each read that meets it, also of the cluster that is kept, and for no
// other one.
func TestReadAtErrors(t *testing.T) {
	boom := errors.New("boom")
	for seed := range uint64(8) {
		rnd := rand.New(rand.NewPCG(seed, 9))
		images, shown := randomChain(t, rnd)
		top := &brokenFile{ReaderAt: images[len(images)-1], from: 1 << 62, err: boom}
		images[len(images)-1] = top
		c, err := Open(images)
		if err != nil {
			t.Fatal(err)
		}
		r := c.NewReader()
		p := make([]byte, 700)
		failed := 0
		for i := range 300 {
			top.from = 1 << 62
			if i%3 > 0 {
				top.from = 0
			}
			off := rnd.Int64N(max(1, c.Size()-int64(len(p))))
			n, err := r.ReadAt(p, off)
			switch {
			case err == nil || err == io.EOF:
				if !bytes.Equal(p[:n], shown[off:off+int64(n)]) {
					t.Fatalf("seed %d: other bytes at offset %d", seed, off)
				}
			case !errors.Is(err, boom) || top.from > 0:
				t.Fatalf("seed %d: %v", seed, err)
			default:
				failed++
			}
		}
		if failed == 0 {
			t.Errorf("seed %d: no read has met the error", seed)
		}
	}
}
