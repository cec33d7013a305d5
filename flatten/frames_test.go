package flatten

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/virtbackup/virtbackup/extent"
	"github.com/virtbackup/virtbackup/qcow2"
)

// packer compresses some clusters on their way to a Writer.
type packer struct {
	*qcow2.Writer
	encoder *zstd.Encoder
	rnd     *rand.Rand
}

func (p *packer) Write(offsets []int64, data []byte) error {
	for i, off := range offsets {
		cluster := data[i*unit : (i+1)*unit]
		frame := p.encoder.EncodeAll(cluster, nil)
		switch p.rnd.IntN(8) {
		case 0, 1: // as it is
			if err := p.Writer.Write([]int64{off}, cluster); err != nil {
				return err
			}
			continue
		case 2: // in two frames, so it cannot be handed on
			frame = append(p.encoder.EncodeAll(cluster[:unit/2], nil), p.encoder.EncodeAll(cluster[unit/2:], nil)...)
		}
		if err := p.WriteFrames([]int64{off}, [][]byte{frame}); err != nil {
			return err
		}
	}
	return nil
}

// packedImages is writeImages, with images of which some clusters are compressed.
func packedImages(t *testing.T, rnd *rand.Rand, images ...image) (paths []string) {
	t.Helper()
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	must(t, err)
	dir := t.TempDir()
	for i, im := range images {
		o := qcow2.Options{VirtualSize: im.size, ClusterSize: unit, Frames: true}
		if i > 0 {
			o.BackingFile, o.BackingFormat = filepath.Base(paths[i-1]), "qcow2"
		}
		paths = append(paths, filepath.Join(dir, fmt.Sprintf("%d.qcow2", i)))
		write(t, paths[i], o, func(w *qcow2.Writer) {
			for _, part := range im.extents {
				must(t, store(&packer{w, e, rnd}, part, im.size, byte('A'+i)))
			}
		})
	}
	return paths
}

// frameCounter counts what goes to a Writer.
type frameCounter struct {
	*qcow2.Writer
	frames, plain atomic.Int64
	fail          error
}

func (c *frameCounter) WriteFrames(offsets []int64, frames [][]byte) error {
	if c.fail != nil {
		return c.fail
	}
	c.frames.Add(int64(len(offsets)))
	return c.Writer.WriteFrames(offsets, frames)
}

func (c *frameCounter) Write(offsets []int64, data []byte) error {
	c.plain.Add(int64(len(offsets)))
	return c.Writer.Write(offsets, data)
}

var _ extent.Sink = (*frameCounter)(nil)

// A copy by frames shows the same as the chain, and has most of its compressed clusters as
// they were. The judge is qemu-img.
func TestCopyFramesRandom(t *testing.T) {
	var frames, plain int64
	for seed := range uint64(12) {
		rnd := rand.New(rand.NewPCG(seed, 11))
		paths := packedImages(t, rnd, randomImages(rnd)...)
		part := rnd.IntN(len(paths))
		images := open(t, paths[part:]...)
		o := qcow2.Options{VirtualSize: images.Size(), ClusterSize: unit, Frames: true}
		if part > 0 {
			o.BackingFile, o.BackingFormat = filepath.Base(paths[part-1]), "qcow2"
		}
		merged := filepath.Join(filepath.Dir(paths[0]), "merged.qcow2")
		var sink *frameCounter
		var copied atomic.Int64
		write(t, merged, o, func(w *qcow2.Writer) {
			sink = &frameCounter{Writer: w}
			must(t, CopyFrames(context.Background(), images, sink, func(n int64) { copied.Store(max(copied.Load(), n)) }))
		})
		if want := (sink.frames.Load() + sink.plain.Load()) * unit; copied.Load() != want {
			t.Errorf("seed %d: told of %d bytes, want %d", seed, copied.Load(), want)
		}
		frames, plain = frames+sink.frames.Load(), plain+sink.plain.Load()
		qemuImg(t, "check", "-q", merged)
		qemuImg(t, "compare", "-f", "qcow2", "-F", "qcow2", merged, paths[len(paths)-1])
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	if share := float64(frames) / float64(frames+plain); share < 0.5 || share > 0.8 {
		t.Errorf("%d frames and %d clusters as they are, want 5 of 8 to be frames", frames, plain)
	}
}

func TestCopyFramesErrors(t *testing.T) {
	paths := packedImages(t, rand.New(rand.NewPCG(1, 11)), imageOf("dddddddddddddddd", 0))
	boom := errors.New("boom")
	write(t, filepath.Join(t.TempDir(), "image"), qcow2.Options{VirtualSize: 16 * unit, ClusterSize: unit, Frames: true}, func(w *qcow2.Writer) {
		err := CopyFrames(context.Background(), open(t, paths...), &frameCounter{Writer: w, fail: boom}, func(int64) {})
		if !errors.Is(err, boom) || !bytes.Contains([]byte(err.Error()), []byte("compressed clusters from guest offset")) {
			t.Error(err)
		}
	})
}
