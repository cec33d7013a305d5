package qcow2

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// pureCompressor makes frames without libzstd, which package zstd has.
type pureCompressor struct{ *zstd.Encoder }

func (c pureCompressor) Append(dst, cluster []byte) ([]byte, error) {
	return c.EncodeAll(cluster, dst), nil
}

// frames is for Options.NewCompressor.
func frames(compressed bool) func() Compressor {
	if !compressed {
		return nil
	}
	return func() Compressor {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(1<<20))
		if err != nil {
			panic(err)
		}
		return pureCompressor{e}
	}
}

// A frame decodes to its cluster, and is worth it.
func TestFrames(t *testing.T) {
	r := newRand(t)
	decoder, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer decoder.Close()
	for clusterSize := minClusterSize; clusterSize <= MaxClusterSize; clusterSize *= 2 {
		c := newCompressor(clusterSize, frames(true)())
		n := max(1, segmentSize/clusterSize)
		data := make([]byte, n*clusterSize)
		for i := range n {
			fillMixed(r, data[i*clusterSize:][:clusterSize])
		}
		compressed, err := c.compress(data)
		if err != nil || compressed != nil && len(compressed) != n {
			t.Fatal(len(compressed), err)
		}
		smaller := 0
		for i := range n {
			if compressed == nil || len(compressed[i]) == 0 {
				continue
			}
			frame := compressed[i]
			smaller++
			got, err := decoder.DecodeAll(frame, nil)
			if err != nil || !bytes.Equal(got, data[i*clusterSize:][:clusterSize]) {
				t.Fatalf("cluster of %d bytes: %d bytes, error %v", clusterSize, len(got), err)
			}
			if len(frame) > clusterSize-512 {
				t.Errorf("cluster of %d bytes: a frame of %d", clusterSize, len(frame))
			}
		}
		if (smaller > 0) != (compressed != nil) {
			t.Errorf("%d clusters got smaller", smaller)
		}
	}
}

func TestCompressedEntry(t *testing.T) {
	for _, test := range []struct {
		host        int64
		length      int
		clusterSize int
		want        uint64
	}{
		{65536, 1, 64 << 10, 1<<62 | 65536},
		{65536, 512, 64 << 10, 1<<62 | 65536},
		{65536, 513, 64 << 10, 1<<62 | 1<<54 | 65536},
		{66047, 2, 64 << 10, 1<<62 | 1<<54 | 66047},
		{100000, 65024, 64 << 10, 1<<62 | 127<<54 | 100000},
		{4096, 3584, 4 << 10, 1<<62 | 6<<58 | 4096},
		{4607, 3584, 4 << 10, 1<<62 | 7<<58 | 4607},
		{2 << 20, 2<<20 - 512, 2 << 20, 1<<62 | 4094<<49 | 2<<20},
	} {
		if got := compressedEntry(test.host, test.length, test.clusterSize); got != test.want {
			t.Errorf("%d bytes at %d, clusters of %d bytes: entry %#x, want %#x", test.length, test.host, test.clusterSize, got, test.want)
		}
	}
}

// Without a cluster that gets smaller, a whole segment is not copied either.
func TestIncompressibleSegmentIsNotCopied(t *testing.T) {
	w, f := newImage(t, t.TempDir(), "a.qcow2", Options{VirtualSize: 1 << 30, NewCompressor: frames(true)})
	data := alignedBuffer(segmentSize)
	fillNoise(newRand(t), data)
	offsets := make([]int64, 16)
	for i := range offsets {
		offsets[i] = int64(i) * 10 << 20
	}
	if err := w.Write(offsets, data); err != nil {
		t.Fatal(err)
	}
	if len(f.writes) != 1 || f.writes[0] != (write{segmentSize, segmentSize}) {
		t.Errorf("writes %v, want one of a segment at offset %d", f.writes, segmentSize)
	}
	if w.first.used != w.ClusterSize() || w.pack != nil {
		t.Error("the clusters were copied")
	}
}

// bigImage writes size bytes of mixed data from several goroutines, in batches
// of a segment, every third of them incompressible as a whole.
func bigImage(t *testing.T, r *rand.Rand, w *Writer, m *sparseModel, size int64) {
	t.Helper()
	var wg sync.WaitGroup
	starts := make(chan int64)
	for range 4 {
		r := rand.New(rand.NewPCG(r.Uint64(), 0))
		wg.Go(func() {
			data := alignedBuffer(w.segs.size)
			cs := w.ClusterSize()
			offsets := make([]int64, len(data)/cs)
			for start := range starts {
				for i := range offsets {
					offsets[i] = start + int64(i*cs)
					if start/int64(len(data))%3 == 0 {
						fillNoise(r, data[i*cs:][:cs])
					} else {
						fillMixed(r, data[i*cs:][:cs])
					}
				}
				if _, err := m.file.WriteAt(data, start); err != nil {
					t.Error(err)
				}
				if err := w.Write(offsets, data); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for start := int64(0); start < size; start += int64(w.segs.size) {
		starts <- start
	}
	close(starts)
	wg.Wait()
}

// Refcount blocks are spilled, few stay in memory, and the stream's runs end at
// other segments and go on: all is in the image.
func TestSpilledRefcounts(t *testing.T) {
	const size = 288 << 20 // four blocks are left whatever of it is compressed, and how well
	r := newRand(t)
	dir := t.TempDir()
	m := newSparseModel(t, filepath.Join(dir, "raw"), size)
	w, f := newImage(t, dir, "a.qcow2", Options{VirtualSize: size, ClusterSize: 4096, NewCompressor: frames(true)})
	w.stream.taken = maxRun * runShare
	bigImage(t, r, w, m, size)
	spilled := 0
	for _, offset := range w.counts.spilled {
		if offset != 0 {
			spilled++
		}
	}
	if n := len(w.counts.resident); spilled < 4 || n > 8 {
		t.Errorf("%d refcount blocks spilled, %d in memory", spilled, n)
	}
	finish(t, w, f)
	if f.reads > 0 {
		t.Errorf("%d reads", f.reads)
	}
	qemuImg(t, "check", f.file.Name())
	qemuImg(t, "compare", "-f", "qcow2", "-F", "raw", f.file.Name(), m.file.Name())
}

// An image is no larger than QEMU makes it, whatever the clusters' size and
// whatever lies between the compressed clusters.
func TestImageIsNoLargerThanQemus(t *testing.T) {
	const size = 48 << 20
	for _, clusterSize := range []int{4 << 10, 64 << 10, 1 << 20, 2 << 20} {
		r := newRand(t)
		dir := t.TempDir()
		m := newSparseModel(t, filepath.Join(dir, "raw"), size)
		w, f := newImage(t, dir, "a.qcow2", Options{VirtualSize: size, ClusterSize: clusterSize, NewCompressor: frames(true)})
		bigImage(t, r, w, m, size)
		stats := finish(t, w, f)
		qemuImg(t, "check", f.file.Name())
		qemuImg(t, "compare", "-f", "qcow2", "-F", "raw", f.file.Name(), m.file.Name())
		theirs := filepath.Join(dir, "qemu.qcow2")
		qemuImg(t, "convert", "-f", "raw", "-O", "qcow2", "-c", "-o", fmt.Sprintf("compression_type=zstd,cluster_size=%d", clusterSize), m.file.Name(), theirs)
		info, err := os.Stat(theirs)
		if err != nil {
			t.Fatal(err)
		}
		ratio := float64(stats.FileBytes) / float64(info.Size())
		t.Logf("clusters of %d bytes: %d bytes, %.3f of QEMU's", clusterSize, stats.FileBytes, ratio)
		if float64(stats.FileBytes-2*int64(w.segs.size)) > 1.03*float64(info.Size()) { // those that are not full
			t.Errorf("clusters of %d bytes: an image of %d bytes, QEMU's has %d", clusterSize, stats.FileBytes, info.Size())
		}
	}
}

// failingCompressor is a library that fails.
type failingCompressor struct{ error }

func (c failingCompressor) Append([]byte, []byte) ([]byte, error) { return nil, c.error }

// What fails to be compressed fails the image.
func TestFailedCompression(t *testing.T) {
	boom := errors.New("boom")
	w, _ := newImage(t, t.TempDir(), "a.qcow2", Options{VirtualSize: 1 << 30, NewCompressor: func() Compressor { return failingCompressor{boom} }})
	for range 2 * maxCompressors { // none of which keeps a compressor
		if err := w.Write([]int64{0}, make([]byte, 64<<10)); !errors.Is(err, boom) {
			t.Fatalf("got %v", err)
		}
	}
}
