// Package extenttest is for tests of what writes to an [extent.Sink].
package extenttest

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"sync"
	"testing"
	"unsafe"

	"github.com/virtbackup/virtbackup/extent"
)

// Data is an extent of data.
func Data(offset, length int64) extent.Extent {
	return extent.Extent{Offset: offset, Length: length, Status: extent.Data}
}

// Zero is an extent of zeros.
func Zero(offset, length int64) extent.Extent {
	return extent.Extent{Offset: offset, Length: length, Status: extent.Zero}
}

// Clean is an extent that is unchanged.
func Clean(offset, length int64) extent.Extent {
	return extent.Extent{Offset: offset, Length: length, Status: extent.Clean}
}

// Recorder is a sink that keeps what it is told, and notes calls that break the
// contract of extent.Sink.
type Recorder struct {
	Cluster int   // bytes
	Size    int64 // of the disk, bytes
	// Bytes are what the disk holds after the calls, Size bytes; nil: not kept.
	Bytes []byte
	// Fail, if set, is asked before each call ("write" or "zero", and its first
	// offset) for the error that it returns.
	Fail func(op string, offset int64) error

	mu     sync.Mutex
	writes [][]int64
	ops    []extent.Extent
	broken []string
}

// ClusterSize is part of extent.Sink.
func (r *Recorder) ClusterSize() int { return r.Cluster }

// Write is part of extent.Sink.
func (r *Recorder) Write(offsets []int64, data []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.Fail != nil {
		if err := r.Fail("write", offsets[0]); err != nil {
			return err
		}
	}
	if len(data) != len(offsets)*r.Cluster {
		r.breaks("%d clusters with %d bytes", len(offsets), len(data))
	}
	if addr := uintptr(unsafe.Pointer(unsafe.SliceData(data))); addr%4096 != 0 {
		r.breaks("data at %#x is not page-aligned", addr)
	}
	r.writes = append(r.writes, slices.Clone(offsets))
	for i, off := range offsets {
		p := data[i*r.Cluster : (i+1)*r.Cluster]
		n := min(int64(r.Cluster), r.Size-off)
		if off%int64(r.Cluster) != 0 || n <= 0 {
			r.breaks("write at %d", off)
			continue
		}
		if len(bytes.TrimLeft(p[n:], "\x00")) > 0 {
			r.breaks("the tail at %d is not zero", off)
		}
		if r.Bytes != nil {
			copy(r.Bytes[off:], p[:n])
		}
		r.ops = append(r.ops, Data(off, n))
	}
	return nil
}

// Zero is part of extent.Sink.
func (r *Recorder) Zero(offset, length int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.Fail != nil {
		if err := r.Fail("zero", offset); err != nil {
			return err
		}
	}
	end := offset + length
	if length <= 0 || offset%int64(r.Cluster) != 0 || (end%int64(r.Cluster) != 0 && end != r.Size) || end > r.Size {
		r.breaks("zero [%d, +%d)", offset, length)
		return nil
	}
	if r.Bytes != nil {
		clear(r.Bytes[offset:end])
	}
	r.ops = append(r.ops, Zero(offset, length))
	return nil
}

func (r *Recorder) breaks(format string, args ...any) {
	r.broken = append(r.broken, fmt.Sprintf(format, args...))
}

// Writes are the offsets of each call of Write, in the order of the calls.
func (r *Recorder) Writes() [][]int64 { return r.writes }

// Extents are all that the sink was told, in guest order, neighbours of one
// status joined. The test fails where a call broke the contract, or a byte came
// twice. No call may be under way.
func (r *Recorder) Extents(t testing.TB) []extent.Extent {
	t.Helper()
	for _, rule := range r.broken {
		t.Errorf("the sink was told: %s", rule)
	}
	slices.SortFunc(r.ops, func(a, b extent.Extent) int { return cmp.Compare(a.Offset, b.Offset) })
	var list []extent.Extent
	for _, op := range r.ops {
		if n := len(list); n > 0 && list[n-1].End() > op.Offset {
			t.Errorf("%v overlaps %v", op, list[n-1])
		} else if n > 0 && list[n-1].End() == op.Offset && list[n-1].Status == op.Status {
			list[n-1].Length += op.Length
			continue
		}
		list = append(list, op)
	}
	return list
}
