package flatten

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/virtbackup/virtbackup/extent"
	"github.com/virtbackup/virtbackup/extent/extenttest"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/qcow2/chain"
)

// unit is the cluster size of these tests.
const unit = 4096

func isZero(p []byte) bool { return bytes.Count(p, []byte{0}) == len(p) }

// baseOf makes an image that holds a disk, without the clusters that are zeros.
func baseOf(t *testing.T, disk []byte) *os.File {
	t.Helper()
	size := int64(len(disk))
	path := filepath.Join(t.TempDir(), "base")
	write(t, path, qcow2.Options{VirtualSize: size, ClusterSize: unit}, func(w *qcow2.Writer) { feed(t, w, disk) })
	f, err := os.Open(path)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// compared is a Comparer in front of a recorder that holds what an image chained
// onto the base shows at first.
func compared(t *testing.T, base []byte, size int) (*Comparer, *extenttest.Recorder) {
	t.Helper()
	images, err := chain.Open([]io.ReaderAt{baseOf(t, base)})
	must(t, err)
	sink := &extenttest.Recorder{Cluster: unit, Size: int64(size), Bytes: make([]byte, size)}
	copy(sink.Bytes, base)
	c, err := Compare(images, sink)
	must(t, err)
	return c, sink
}

// diskOf makes a disk from text: each rune is a cluster of that byte, '.' of
// zeros. The last cluster may be cut.
func diskOf(text string, size int) []byte {
	var disk []byte
	for _, r := range text {
		if r == '.' {
			r = 0
		}
		disk = append(disk, bytes.Repeat([]byte{byte(r)}, unit)...)
	}
	return disk[:size]
}

// feed hands a disk to a sink as a copy would: runs of data clusters and of
// zeros, the last one padded.
func feed(t *testing.T, sink extent.Sink, disk []byte) {
	t.Helper()
	cluster := sink.ClusterSize()
	data := directio.Buffer((len(disk)/cluster + 1) * cluster)
	clear(data[copy(data, disk):])
	for off := 0; off < len(disk); {
		end := off
		zero := isZero(data[off : off+cluster])
		var offsets []int64
		for end < len(disk) && isZero(data[end:end+cluster]) == zero {
			offsets = append(offsets, int64(end))
			end += cluster
		}
		var err error
		if zero {
			err = sink.Zero(int64(off), int64(min(end, len(disk))-off))
		} else {
			err = sink.Write(offsets, data[off:end])
		}
		if err != nil {
			t.Fatal(err)
		}
		off = end
	}
}

func TestComparer(t *testing.T) {
	const s = unit
	tests := []struct {
		name       string
		base, disk string
		// Bytes that the last cluster of each lacks.
		cutBase, cutDisk int
		want             []extent.Extent
		same             int64
	}{
		{"nothing changed", "aab.c", "aab.c", 0, 0, nil, 4 * s},
		{"data over data", "aabbcc", "aaxbcc", 0, 0, []extent.Extent{extenttest.Data(2*s, s)}, 5 * s},
		{"data over zeros", "a..b", "a.xb", 0, 0, []extent.Extent{extenttest.Data(2*s, s)}, 2 * s},
		{"zeros over data", "aabb", "a..b", 0, 0, []extent.Extent{extenttest.Zero(s, 2*s)}, 2 * s},
		{"zeros over zeros", "a....", "a....", 0, 0, nil, s},
		{"zeros over both", "a.b..c", "......", 0, 0, []extent.Extent{extenttest.Zero(0, s), extenttest.Zero(2*s, s), extenttest.Zero(5*s, s)}, 0},
		{"every other one", "abcdef", "axcxex", 0, 0, []extent.Extent{extenttest.Data(s, s), extenttest.Data(3*s, s), extenttest.Data(5*s, s)}, 3 * s},
		{"runs", "aaaaaaaa", "xxaaxxxa", 0, 0, []extent.Extent{extenttest.Data(0, 2*s), extenttest.Data(4*s, 3*s)}, 3 * s},
		{"the base is empty", "", "a.b", 0, 0, []extent.Extent{extenttest.Data(0, s), extenttest.Data(2*s, s)}, 0},
		{"the disk is new zeros", "", "....", 0, 0, nil, 0},
		{"grown by data", "ab", "abcd", 0, 0, []extent.Extent{extenttest.Data(2*s, 2*s)}, 2 * s},
		{"grown by zeros", "ab", "ab....", 0, 0, nil, 2 * s},
		{"grown, zeros across the old end", "abcd", "ab....", 0, 0, []extent.Extent{extenttest.Zero(2*s, 2*s)}, 2 * s},
		{"shrunk", "abcdef", "abxd", 0, 0, []extent.Extent{extenttest.Data(2*s, s)}, 3 * s},
		{"shrunk, zeros at the new end", "abcdef", "ab..", 0, 0, []extent.Extent{extenttest.Zero(2*s, 2*s)}, 2 * s},
		{"odd end, the same", "abc", "abc", 512, 512, nil, 3 * s},
		{"odd end, another", "abc", "abx", 512, 512, []extent.Extent{extenttest.Data(2*s, s-512)}, 2 * s},
		{"odd end, zeros", "abc", "ab.", 512, 512, []extent.Extent{extenttest.Zero(2*s, s-512)}, 2 * s},
		{"grown within the last cluster, zeros", "abc", "ab.", 1536, 512, []extent.Extent{extenttest.Zero(2*s, s-512)}, 2 * s},
		{"grown within the last cluster, data", "abc", "abc", 1536, 512, []extent.Extent{extenttest.Data(2*s, s-512)}, 2 * s},
		{"shrunk within the last cluster", "abc", "abc", 512, 1536, []extent.Extent{extenttest.Data(2*s, s-1536)}, 2 * s},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			base := diskOf(tt.base, len(tt.base)*s-tt.cutBase)
			disk := diskOf(tt.disk, len(tt.disk)*s-tt.cutDisk)
			c, sink := compared(t, base, len(disk))
			feed(t, c, disk)
			if got := sink.Extents(t); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			if !bytes.Equal(sink.Bytes, disk) {
				t.Error("the image shows something else than the disk")
			}
			if got := c.Same(); got != tt.same {
				t.Errorf("%d bytes the same, want %d", got, tt.same)
			}
		})
	}
}

// Whatever base and disk hold, the
// image shows the disk, and holds nothing that the base has, too.
func TestComparerRandom(t *testing.T) {
	for seed := range uint64(100) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		random := func(size int) []byte {
			p := make([]byte, size)
			for off := 0; off < size; {
				n := min(1+rnd.IntN(11000), size-off)
				if b := byte(rnd.IntN(3)); b > 0 {
					copy(p[off:off+n], bytes.Repeat([]byte{b}, n))
				}
				off += n
			}
			return p
		}
		base := random(512 * rnd.IntN(200))
		disk := random(512 * (1 + rnd.IntN(200)))
		for range rnd.IntN(10) { // often the same for a while
			off := rnd.IntN(len(disk))
			copy(disk[off:min(off+30_000, len(disk))], base[min(off, len(base)):])
		}
		c, sink := compared(t, base, len(disk))
		feed(t, c, disk)
		if !bytes.Equal(sink.Bytes, disk) {
			t.Fatalf("seed %d: the image shows something else than the disk", seed)
		}
		padded := make([]byte, max(len(base), len(disk))+unit)
		copy(padded, base)
		for _, op := range sink.Extents(t) {
			for off := op.Offset; off < op.End(); off += unit {
				n := min(unit, int64(len(disk))-off)
				whole := bytes.Equal(disk[off:off+n], padded[off:off+n]) && isZero(padded[off+n:off+unit])
				if whole {
					t.Fatalf("seed %d: %v has the cluster at %d, which is as in the base", seed, op, off)
				}
			}
		}
	}
}

// Zeros cost a look at the table of the base, not a read.
func TestComparerReadsNoZeros(t *testing.T) {
	var reads atomic.Int64
	base := countedFile{baseOf(t, diskOf("abc.......", 10*unit)), &reads}
	images, err := chain.Open([]io.ReaderAt{base})
	must(t, err)
	sink := &extenttest.Recorder{Cluster: unit, Size: 1 << 30}
	c, err := Compare(images, sink)
	must(t, err)
	reads.Store(0)
	must(t, c.Zero(0, 1<<30))
	if got := sink.Extents(t); reads.Load() != 1 || !reflect.DeepEqual(got, []extent.Extent{extenttest.Zero(0, 3*unit)}) {
		t.Errorf("%d reads, stored %v", reads.Load(), got)
	}
}

// Zeros across several windows of the base hide what it has in each of them, once, and not
// what reads as zeros there already.
func TestComparerZerosAcrossWindows(t *testing.T) {
	const window = unit / 8 * unit // what one L2 table describes
	at := func(offset int64) extent.Extent { return extenttest.Data(offset, unit) }
	images := open(t, writeImages(t,
		image{5 * window, []extent.Extent{at(0), at(window - unit), at(2 * window), at(3 * window), at(4*window + unit)}},
		image{5 * window, []extent.Extent{extenttest.Zero(3*window, unit)}})...)
	if images.WindowSize() != window {
		t.Fatalf("a window of %d bytes", images.WindowSize())
	}
	for _, start := range []int64{0, window - unit, window} {
		sink := &extenttest.Recorder{Cluster: unit, Size: 6 * window}
		c, err := Compare(images, sink)
		must(t, err)
		must(t, c.Zero(start, 6*window-start))
		var want []extent.Extent
		for _, offset := range []int64{0, window - unit, 2 * window, 4*window + unit} {
			if offset >= start {
				want = append(want, extenttest.Zero(offset, unit))
			}
		}
		if got := sink.Extents(t); !reflect.DeepEqual(got, want) {
			t.Errorf("from %d on: got %v, want %v", start, got, want)
		}
	}
}

// Calls one after the other share a reader and its memory.
func TestComparerKeepsItsReaders(t *testing.T) {
	disk := diskOf("abcd", 4*unit)
	c, _ := compared(t, disk, len(disk))
	for range 100 {
		must(t, c.Write([]int64{0, unit}, disk[:2*unit]))
	}
	if len(c.idle) != 1 {
		t.Errorf("%d readers for one call at a time", len(c.idle))
	}
}

func TestComparerErrors(t *testing.T) {
	boom := errors.New("boom")
	disk := diskOf("ax", 2*unit)
	for name, tt := range map[string]struct {
		base, sink error
		call       func(*Comparer) error
	}{
		"read":          {boom, nil, func(c *Comparer) error { return c.Write([]int64{0, unit}, disk) }},
		"tables":        {boom, nil, func(c *Comparer) error { return c.Zero(0, 2*unit) }},
		"sink, between": {nil, boom, func(c *Comparer) error { return c.Write([]int64{unit, 0}, diskOf("xa", 2*unit)) }},
		"sink, last":    {nil, boom, func(c *Comparer) error { return c.Write([]int64{0, unit}, disk) }},
		"sink, zeros":   {nil, boom, func(c *Comparer) error { return c.Zero(0, 2*unit) }},
	} {
		t.Run(name, func(t *testing.T) {
			base := &brokenFile{ReaderAt: baseOf(t, diskOf("ab", 2*unit))}
			images, err := chain.Open([]io.ReaderAt{base})
			must(t, err)
			if tt.base != nil {
				base.err.Store(&tt.base)
			}
			sink := &extenttest.Recorder{Cluster: unit, Size: 2 * unit, Fail: func(string, int64) error { return tt.sink }}
			c, err := Compare(images, sink)
			must(t, err)
			if err := tt.call(c); !errors.Is(err, boom) || tt.base != nil && !strings.Contains(err.Error(), "compare with the base: ") {
				t.Errorf("got %v", err)
			}
			if len(c.idle) > 1 {
				t.Errorf("%d readers for one call at a time", len(c.idle))
			}
		})
	}
}

// Calls side by side get the same answers, each with a reader of its own.
func TestComparerSideBySide(t *testing.T) {
	base, disk := diskOf("abcdefgh", 8*unit), diskOf("axcxe.g.", 8*unit)
	c, sink := compared(t, base, len(disk))
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			off := int64(i * unit)
			data := directio.Buffer(unit)
			copy(data, disk[off:])
			if err := c.Write([]int64{off}, data); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if !bytes.Equal(sink.Bytes, disk) || c.Same() != 4*unit {
		t.Errorf("%d bytes the same; the sink shows %q", c.Same(), sink.Bytes)
	}
	if len(c.idle) == 0 || len(c.idle) > 8 {
		t.Errorf("%d readers", len(c.idle))
	}
}
