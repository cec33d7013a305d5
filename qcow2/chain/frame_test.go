package chain

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/virtbackup/virtbackup/qcow2"
)

// encode makes a frame of p.
func encode(t testing.TB, p []byte, o ...zstd.EOption) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil, append(o, zstd.WithEncoderConcurrency(1))...)
	if err != nil {
		t.Fatal(err)
	}
	return e.EncodeAll(p, nil)
}

// content is a cluster that compresses to blocks of all types.
func content(rnd *rand.Rand, cluster int) []byte {
	p := make([]byte, cluster)
	for at := 0; at < cluster; {
		n := min(1+rnd.IntN(256<<10), cluster-at)
		kind, fill := rnd.IntN(3), byte(rnd.Uint32())
		for i := range p[at : at+n] {
			p[at+i] = [3]byte{fill, byte(rnd.Uint32()), "text of few letters"[rnd.IntN(19)]}[kind]
		}
		at += n
	}
	return p
}

// A frame ends where it ends, whatever follows it, with and without checksum.
func TestFrameLength(t *testing.T) {
	for seed := range uint64(30) {
		rnd := rand.New(rand.NewPCG(seed, 9))
		cluster := 4096 << rnd.IntN(10)
		frame := encode(t, content(rnd, cluster), zstd.WithEncoderCRC(seed%2 == 0))
		packed := append(bytes.Clone(frame), content(rnd, 512)...)
		if n, err := frameLength(packed, int64(cluster)); n != len(frame) || err != nil {
			t.Errorf("seed %d: %d bytes, %v, want %d", seed, n, err, len(frame))
		}
		for range 20 {
			cut := frame[:rnd.IntN(len(frame))]
			if n, err := frameLength(cut, int64(cluster)); err == nil {
				t.Errorf("seed %d: %d of %d bytes have a frame of %d", seed, len(cut), len(frame), n)
			}
		}
	}
}

func TestFrameLengthOfOthers(t *testing.T) {
	const cluster = 4096
	half := encode(t, make([]byte, cluster/2))
	var stream bytes.Buffer
	w, err := zstd.NewWriter(&stream)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, cluster)); err != nil || w.Flush() != nil || w.Close() != nil {
		t.Fatal(err)
	}
	reserved := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x60, 0x00, 0x0f, 0x07, 0, 0}
	short := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x60, 0x00, 0x0f, 0x03 | 8<<3, 0, 0, 0}
	for _, tt := range []struct {
		name   string
		packed []byte
		bad    bool
	}{
		{"two frames", append(half, half...), false},
		{"of unknown size", stream.Bytes(), false},
		{"skippable", append([]byte{0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 0}, half...), false},
		{"zlib", []byte("x\x9c of something that is no frame"), true},
		{"empty", nil, true},
		{"reserved block", reserved, true},
		{"too little in it", short, true},
	} {
		if n, err := frameLength(tt.packed, cluster); n != 0 || (err != nil) != tt.bad {
			t.Errorf("%s: %d bytes, %v", tt.name, n, err)
		}
	}
}

// What has a length lies within p, and unpacks to a cluster if it unpacks at all.
func FuzzFrameLength(f *testing.F) {
	const cluster = 4096
	rnd := rand.New(rand.NewPCG(1, 9))
	for i := range 6 {
		f.Add(append(encode(f, content(rnd, cluster), zstd.WithEncoderCRC(i%2 == 0)), content(rnd, 100)...))
	}
	f.Add(append(encode(f, make([]byte, cluster/2)), encode(f, make([]byte, cluster/2))...))
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(1<<20))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		n, err := frameLength(p, cluster)
		if n < 0 || n > len(p) || err != nil && n != 0 {
			t.Fatalf("%d of %d bytes, %v", n, len(p), err)
		}
		if n == 0 {
			return
		}
		if out, err := d.DecodeAll(p[:n], nil); err == nil && len(out) != cluster {
			t.Fatalf("unpacks to %d bytes", len(out))
		}
		if longer, err := frameLength(append(bytes.Clone(p[:n]), 1, 2, 3), cluster); longer != n || err != nil {
			t.Fatalf("%d bytes, %v, where more follows, %d where not", longer, err, n)
		}
	})
}

// Frames unpack to what Read returns. Those of clusters that are cut, or raw, are nil.
func TestFrames(t *testing.T) {
	total := 0
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(8) {
		rnd := rand.New(rand.NewPCG(seed, 10))
		cluster := []int{4096, 65536}[rnd.IntN(2)]
		var sizes []int64
		for range 1 + rnd.IntN(4) {
			sizes = append(sizes, 512*(1+rnd.Int64N(4<<20/512)))
		}
		images, _ := chainOf(t, rnd, cluster, sizes...)
		c, err := Open(images)
		if err != nil {
			t.Fatal(err)
		}
		r, other := c.NewReader(), c.NewReader()
		for range 20 {
			offsets := randomBatch(rnd, c.Size(), int64(cluster))
			frames, err := r.Frames(offsets)
			if err != nil || len(frames) != len(offsets) {
				t.Fatal(len(frames), err)
			}
			for i, offset := range offsets {
				layer, entry := 0, uint64(0)
				if w, err := c.Window(0); err != nil {
					t.Fatal(err)
				} else if k := int(offset) / cluster; w != nil && k < w.Len() {
					layer, entry = w.Cell(k)
				}
				whole := qcow2.IsCompressed(entry) && offset+int64(cluster) <= c.Visible(layer)
				if whole != (frames[i] != nil) {
					t.Fatalf("seed %d: cluster at %d with entry %#x: a frame of %d bytes", seed, offset, entry, len(frames[i]))
				}
				if !whole {
					continue
				}
				total++
				want := make([]byte, cluster)
				if err := other.Read(want, offsets[i:i+1]); err != nil {
					t.Fatal(err)
				}
				if got, err := d.DecodeAll(frames[i], nil); err != nil || !bytes.Equal(got, want) {
					t.Fatalf("seed %d: the frame of the cluster at %d: %v", seed, offset, err)
				}
			}
		}
	}
	if total < 100 {
		t.Errorf("only %d frames", total)
	}
}

// Garbage in place of a frame is an error of the chain, what cannot be read is not.
func TestFramesErrors(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := qcow2.NewWriter(f, qcow2.Options{VirtualSize: 1 << 20, NewCompressor: frames(true)})
	if err == nil {
		err = w.Write([]int64{0}, bytes.Repeat([]byte("text"), 1<<14))
	}
	if err == nil {
		_, err = w.Finish(nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	broken := &brokenFile{ReaderAt: f, from: 1 << 62}
	c, err := Open([]io.ReaderAt{broken})
	if err != nil {
		t.Fatal(err)
	}
	r, boom := c.NewReader(), errors.New("boom")
	if got, err := r.Frames([]int64{0, 65536}); err != nil || got[0] == nil || got[1] != nil {
		t.Fatalf("%d bytes, %v", len(got[0]), err)
	}
	var chain *Error
	broken.from = 0
	if _, err := r.Frames([]int64{0}); !errors.As(err, &chain) {
		t.Errorf("garbage: %v", err)
	}
	broken.err = boom
	if _, err := r.Frames([]int64{0}); errors.As(err, &chain) || !errors.Is(err, boom) {
		t.Errorf("unreadable: %v", err)
	}
}
