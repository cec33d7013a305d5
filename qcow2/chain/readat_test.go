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

// A part of a cluster that an image above has hidden, as it ends in the middle of the cluster, reads as
// zeros, and so does the cluster.
func TestReadAtHidden(t *testing.T) {
	const cluster, visible = 4096, 4096 + 512
	dir := t.TempDir()
	var images []io.ReaderAt
	for i, size := range []int64{2 * cluster, visible, 2 * cluster} {
		o := qcow2.Options{VirtualSize: size, ClusterSize: cluster}
		if i > 0 {
			o.BackingFile, o.BackingFormat = fmt.Sprint(i-1), "qcow2"
		}
		f, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		w, err := qcow2.NewWriter(f, o)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if err := w.Write([]int64{0, cluster}, bytes.Repeat([]byte("hidden! "), 2*cluster/8)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.Finish(f.Sync); err != nil {
			t.Fatal(err)
		}
		images = append(images, f)
	}
	c, err := Open(images)
	if err != nil {
		t.Fatal(err)
	}
	want := append(bytes.Repeat([]byte("hidden! "), visible/8), make([]byte, 2*cluster-visible)...)
	for _, length := range []int64{8, 1000, cluster, 2 * cluster} {
		r := c.NewReader()
		for at := int64(0); at+length <= c.Size(); at += length {
			p := make([]byte, length)
			if _, err := r.ReadAt(p, at); err != nil || !bytes.Equal(p, want[at:at+length]) {
				t.Errorf("%d bytes at offset %d: %v, %q", length, at, err, p[:8])
			}
		}
	}
}

// A cluster that cannot be unpacked leaves nothing of it in the one that was kept before.
func TestReadAtKeepsNothingBroken(t *testing.T) {
	r := &Reader{chain: &Chain{cluster: 4096, layers: []layer{{h: qcow2.Header{VirtualSize: 8192, ClusterSize: 4096}, lost: errors.New("lost"), visible: 8192}}}, number: -1, keptAt: 0, kept: bytes.Repeat([]byte("a"), 4096)}
	if err := r.keep(4096); err == nil || r.keptAt != -1 {
		t.Errorf("kept: the cluster at %d, %v", r.keptAt, err)
	}
}
