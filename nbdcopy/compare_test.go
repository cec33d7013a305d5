package nbdcopy

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/virtbackup/virtbackup/extent"
	"github.com/virtbackup/virtbackup/extent/extenttest"
)

// unit is the cluster size of these tests.
const unit = 4096

// memoryBase is a base in memory.
type memoryBase struct {
	data []byte
	read int   // bytes
	fail error // of every call
}

func (m *memoryBase) Read(buf []byte, offsets []int64) error {
	clear(buf)
	for i, off := range offsets {
		if off < int64(len(m.data)) {
			m.read += copy(buf[i*unit:(i+1)*unit], m.data[off:])
		}
	}
	return m.fail
}

// NextData has clusters with anything but zeros in them for data.
func (m *memoryBase) NextData(offset, end int64) (from, to int64, err error) {
	hasData := func(off int64) bool {
		return off < int64(len(m.data)) && len(bytes.Trim(m.data[off:min(off+unit, int64(len(m.data)))], "\x00")) > 0
	}
	for from = offset; from < end && !hasData(from); from += unit {
	}
	for to = from; to < end && hasData(to); to += unit {
	}
	return min(from, end), to, m.fail
}

// compared is a comparer of small clusters in front of a recorder that holds
// what an image chained onto the base shows at first.
func compared(t *testing.T, base *memoryBase, size int) (*comparer, *extenttest.Recorder) {
	t.Helper()
	sink := &extenttest.Recorder{Cluster: unit, Size: int64(size), Bytes: make([]byte, size)}
	copy(sink.Bytes, base.data)
	c := &comparer{sink: sink, readers: make(chan *baseReader, 1)}
	c.readers <- &baseReader{base: base, buf: make([]byte, 1<<17)}
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
	data := <-testPool(t, 1, (len(disk)/cluster+1)*cluster).free
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
		{"odd end, the same", "abc", "abc", 100, 100, nil, 3 * s},
		{"odd end, another", "abc", "abx", 100, 100, []extent.Extent{extenttest.Data(2*s, s-100)}, 2 * s},
		{"odd end, zeros", "abc", "ab.", 100, 100, []extent.Extent{extenttest.Zero(2*s, s-100)}, 2 * s},
		{"grown within the last cluster, zeros", "abc", "ab.", 300, 100, []extent.Extent{extenttest.Zero(2*s, s-100)}, 2 * s},
		{"grown within the last cluster, data", "abc", "abc", 300, 100, []extent.Extent{extenttest.Data(2*s, s-100)}, 2 * s},
		{"shrunk within the last cluster", "abc", "abc", 100, 300, []extent.Extent{extenttest.Data(2*s, s-300)}, 2 * s},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			base := diskOf(tt.base, len(tt.base)*s-tt.cutBase)
			disk := diskOf(tt.disk, len(tt.disk)*s-tt.cutDisk)
			c, sink := compared(t, &memoryBase{data: base}, len(disk))
			feed(t, c, disk)
			if got := sink.Extents(t); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			if !bytes.Equal(sink.Bytes, disk) {
				t.Error("the image shows something else than the disk")
			}
			if got := c.same.Load(); got != tt.same {
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
		base := random(rnd.IntN(100_000))
		disk := random(1 + rnd.IntN(100_000))
		for range rnd.IntN(10) { // often the same for a while
			off := rnd.IntN(len(disk))
			copy(disk[off:min(off+30_000, len(disk))], base[min(off, len(base)):])
		}
		c, sink := compared(t, &memoryBase{data: base}, len(disk))
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

// Zeros cost a look at the tables of the base, not a read.
func TestComparerReadsNoZeros(t *testing.T) {
	base := &memoryBase{data: make([]byte, 1<<16)}
	c, sink := compared(t, base, 1<<17)
	if err := c.Zero(0, 1<<17); err != nil {
		t.Fatal(err)
	}
	if base.read != 0 || len(sink.Extents(t)) != 0 {
		t.Errorf("%d bytes read, stored %v", base.read, sink.Extents(t))
	}
}

func TestComparerErrors(t *testing.T) {
	boom := errors.New("boom")
	disk := diskOf("ax", 2*unit)
	for name, tt := range map[string]struct {
		base, sink error
		call       func(*comparer) error
	}{
		"read":          {boom, nil, func(c *comparer) error { return c.Write([]int64{0, unit}, disk) }},
		"tables":        {boom, nil, func(c *comparer) error { return c.Zero(0, 2*unit) }},
		"sink, between": {nil, boom, func(c *comparer) error { return c.Write([]int64{unit, 0}, diskOf("xa", 2*unit)) }},
		"sink, last":    {nil, boom, func(c *comparer) error { return c.Write([]int64{0, unit}, disk) }},
		"sink, zeros":   {nil, boom, func(c *comparer) error { return c.Zero(0, 2*unit) }},
	} {
		t.Run(name, func(t *testing.T) {
			c, sink := compared(t, &memoryBase{data: diskOf("ab", 2*unit), fail: tt.base}, 2*unit)
			if tt.sink != nil {
				sink.Fail = func(string, int64) error { return tt.sink }
			}
			if err := tt.call(c); !errors.Is(err, boom) {
				t.Errorf("got %v", err)
			}
			if len(c.readers) != 1 {
				t.Error("the reader has not come back")
			}
		})
	}
}
