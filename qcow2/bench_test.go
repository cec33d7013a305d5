package qcow2

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

// nullFile reads as zeros, for a goroutine that was held up for so long that
// its table has left memory.
type nullFile struct{ discardFile }

func (*nullFile) ReadAt(p []byte, _ int64) (int, error) {
	clear(p)
	return len(p), nil
}

// benchmarkWrite writes batches of n clusters of 64 KiB from two goroutines, so
// that the disk's clusters are dealt out stride apart.
func benchmarkWrite(b *testing.B, n int, stride int64) {
	const size, cs = int64(1 << 50), int64(64 << 10)
	w, err := NewWriter(&nullFile{}, Options{VirtualSize: size})
	if err != nil {
		b.Fatal(err)
	}
	var next atomic.Int64
	b.SetBytes(int64(n) * cs)
	b.ReportAllocs()
	b.SetParallelism(1)
	b.RunParallel(func(pb *testing.PB) {
		data := alignedBuffer(n * int(cs))
		offsets := make([]int64, n)
		for pb.Next() {
			at := next.Add(int64(n)) - int64(n)
			for i := range offsets {
				offsets[i] = (at + int64(i)) * stride
			}
			if err := w.Write(offsets, data); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// A full backup: whole segments of neighbours.
func BenchmarkWriteFullSegment(b *testing.B) { benchmarkWrite(b, 16, 64<<10) }

// Whole segments of clusters that lie 1 MiB apart.
func BenchmarkWriteScatteredSegment(b *testing.B) { benchmarkWrite(b, 16, 1<<20) }

// An incremental that finds a cluster here and there: through the open segment.
func BenchmarkWriteScatteredClusters(b *testing.B) { benchmarkWrite(b, 3, 1<<20) }

// Whole segments to be compressed, by so many goroutines at once.
func BenchmarkWriteZstd(b *testing.B) {
	for _, kind := range []struct {
		name string
		fill func(*rand.Rand, []byte)
	}{{"text", fillText}, {"noise", fillNoise}} {
		for _, goroutines := range []int{1, 4} {
			b.Run(fmt.Sprintf("%s/%d", kind.name, goroutines), func(b *testing.B) {
				benchmarkZstd(b, kind.fill, goroutines)
			})
		}
	}
}

func benchmarkZstd(b *testing.B, fill func(*rand.Rand, []byte), goroutines int) {
	w, err := NewWriter(&nullFile{}, Options{VirtualSize: 1 << 48, NewCompressor: frames(true)})
	if err != nil {
		b.Fatal(err)
	}
	data := alignedBuffer(segmentSize)
	fill(rand.New(rand.NewPCG(1, 0)), data)
	b.SetBytes(segmentSize)
	b.ReportAllocs()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			offsets := make([]int64, segmentSize/w.ClusterSize())
			for at := next.Add(1) - 1; at < int64(b.N); at = next.Add(1) - 1 {
				for i := range offsets {
					offsets[i] = at*segmentSize + int64(i*w.ClusterSize())
				}
				if err := w.Write(offsets, data); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}
