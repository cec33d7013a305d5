package nbdcopy

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/extent"
	"github.com/virtbackup/virtbackup/extent/extenttest"
)

func testPool(t *testing.T, count, size int) *pool {
	t.Helper()
	p, err := newPool(count, size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.release(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// planAll plans a disk of which zero says what is zero, into buffers of size
// bytes, and never gives one back.
func planAll(t *testing.T, x *extents, sink extent.Sink, buffer int) []*batch {
	t.Helper()
	count := int(x.size/int64(buffer)) + 1
	out := make(chan *batch, count)
	p := &planner{extents: x, sink: sink, pool: testPool(t, count, buffer), out: out, report: func(extent.Extent) {}}
	if err := p.run(context.Background()); err != nil {
		t.Fatal(err)
	}
	var list []*batch
	for b := range out {
		list = append(list, b)
	}
	return list
}

func TestPlanner(t *testing.T) {
	const cluster, buffer = 4096, 4 * 4096
	tests := []struct {
		name     string
		zero     string // a rune for each half of a cluster, upper case is zero
		requests [][]request
	}{
		{"one run is one request", "dddddd", [][]request{{{0, 3 * cluster, 0}}}},
		{"full buffers", "dddddddddddd", [][]request{{{0, buffer, 0}}, {{buffer, 2 * cluster, 0}}}},
		{"exactly full", "dddddddd", [][]request{{{0, buffer, 0}}}},
		{"scattered clusters share a buffer", "ddZZddZZddZZdd", [][]request{{
			{0, cluster, 0}, {2 * cluster, cluster, cluster}, {4 * cluster, cluster, 2 * cluster}, {6 * cluster, cluster, 3 * cluster}}}},
		{"a run is cut where the buffer is full", "ddZZddddddddddZZdd", [][]request{
			{{0, cluster, 0}, {2 * cluster, 3 * cluster, cluster}},
			{{5 * cluster, 2 * cluster, 0}, {8 * cluster, cluster, 2 * cluster}}}},
		{"half of the last cluster", "ddZZd", [][]request{{{0, cluster, 0}, {2 * cluster, cluster / 2, cluster}}}},
		{"part-zero clusters are read whole", "dZZddZZZ", [][]request{{{0, 3 * cluster, 0}}}},
		{"nothing to read", "ZZZZZ", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			size := int64(len(tt.zero) * cluster / 2)
			zero := parseFlags(tt.zero, cluster/2, size, wireZero)
			x := &extents{size: size, cluster: cluster, alloc: zero.cursor(1<<30, stateZero)}
			var got [][]request
			for _, b := range planAll(t, x, &extenttest.Recorder{Cluster: cluster, Size: size}, buffer) {
				got = append(got, b.requests)
				if b.pending != len(b.requests) {
					t.Errorf("%d requests pending, want %d", b.pending, len(b.requests))
				}
			}
			if !reflect.DeepEqual(got, tt.requests) {
				t.Errorf("requests %v, want %v", got, tt.requests)
			}
		})
	}
}

// Sixteen clusters in sixteen places fill one buffer of sixteen clusters, and
// reach the sink in one call.
func TestScatteredClustersAreOneWrite(t *testing.T) {
	const cluster = bufferSize / 16
	size := int64(2 * bufferSize)
	zero := parseFlags(strings.Repeat("dZ", 16), cluster, size, wireZero)
	sink := &extenttest.Recorder{Cluster: cluster, Size: size}
	list := planAll(t, &extents{size: size, cluster: cluster, alloc: zero.cursor(1<<30, stateZero)}, sink, bufferSize)
	if len(list) != 1 || len(list[0].requests) != 16 || len(list[0].offsets) != 16 {
		t.Fatalf("%d batches, want 1 of 16 requests", len(list))
	}
	fillBatch(list[0], func(int64) byte { return 7 })
	if n, err := list[0].store(sink, cluster, size); err != nil || n != bufferSize {
		t.Errorf("store = %d, %v", n, err)
	}
	if len(sink.Writes()) != 1 || len(sink.Writes()[0]) != 16 {
		t.Errorf("writes %v, want one", sink.Writes())
	}
}

// Neighbours are joined, up to the largest request.
func TestAppend(t *testing.T) {
	const most = maxRequest
	tests := []struct {
		name string
		runs []request // as they are added
		want []request
	}{
		{"neighbours", []request{{0, 4096, 0}, {4096, 8192, 4096}}, []request{{0, 12288, 0}}},
		{"no neighbours", []request{{0, 4096, 0}, {8192, 4096, 4096}}, []request{{0, 4096, 0}, {8192, 4096, 4096}}},
		{"a long run", []request{{4096, 2*most + 512, 0}},
			[]request{{4096, most, 0}, {4096 + most, most, most}, {4096 + 2*most, 512, 2 * most}}},
		{"filled up first", []request{{0, 4096, 0}, {4096, most, 4096}},
			[]request{{0, most, 0}, {most, 4096, most}}},
		{"full before", []request{{0, most, 0}, {most, 4096, most}}, []request{{0, most, 0}, {most, 4096, most}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := &batch{}
			for _, q := range tt.runs {
				b.append(q.offset, q.length, q.bufOffset)
			}
			if !reflect.DeepEqual(b.requests, tt.want) {
				t.Errorf("requests %v, want %v", b.requests, tt.want)
			}
		})
	}
}

// fillBatch reads into a batch what content says of each offset.
func fillBatch(b *batch, content func(offset int64) byte) {
	for i := range b.buf {
		b.buf[i] = 0xee // what an earlier batch left there
	}
	for _, q := range b.requests {
		for i := range q.length {
			b.buf[int64(q.bufOffset)+i] = content(q.offset + i)
		}
	}
}

func TestStore(t *testing.T) {
	const cluster = 4096
	tests := []struct {
		name    string
		content string // a rune per cluster: 0 is zero; _ is not in the batch
		tail    int64  // bytes that the last cluster has, 0: all
		writes  [][]int64
		ops     []extent.Extent
	}{
		{"all data", "abc", 0, [][]int64{{0, 1, 2}}, []extent.Extent{extenttest.Data(0, 3)}},
		{"all zero", "000", 0, nil, []extent.Extent{extenttest.Zero(0, 3)}},
		{"zeros between", "a00b0c", 0, [][]int64{{0, 3, 5}},
			[]extent.Extent{extenttest.Data(0, 1), extenttest.Zero(1, 2), extenttest.Data(3, 1), extenttest.Zero(4, 1), extenttest.Data(5, 1)}},
		{"zeros first", "00ab", 0, [][]int64{{2, 3}}, []extent.Extent{extenttest.Zero(0, 2), extenttest.Data(2, 2)}},
		{"zeros last", "ab00", 0, [][]int64{{0, 1}}, []extent.Extent{extenttest.Data(0, 2), extenttest.Zero(2, 2)}},
		{"zeros with a gap are two", "a0_0b", 0, [][]int64{{0, 4}},
			[]extent.Extent{extenttest.Data(0, 1), extenttest.Zero(1, 1), extenttest.Zero(3, 1), extenttest.Data(4, 1)}},
		{"short tail", "abc", 512, [][]int64{{0, 1, 2}}, []extent.Extent{extenttest.Data(0, 3)}},
		{"short zero tail", "ab0", 512, [][]int64{{0, 1}}, []extent.Extent{extenttest.Data(0, 2), extenttest.Zero(2, 1)}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			size := int64(len(tt.content) * cluster)
			if tt.tail > 0 {
				size += tt.tail - cluster
			}
			sink := &extenttest.Recorder{Cluster: cluster, Size: size, Bytes: bytes.Repeat([]byte{'_'}, int(size))}
			content := func(off int64) byte {
				if r := tt.content[off/cluster]; r != '0' && off%cluster == cluster/16 {
					return r // a single byte makes a cluster data
				}
				return 0
			}
			b := &batch{buf: <-testPool(t, 1, 8*cluster).free}
			for i, r := range tt.content {
				if off := int64(i * cluster); r != '_' {
					b.append(off, min(cluster, size-off), len(b.offsets)*cluster)
					b.offsets = append(b.offsets, off)
				}
			}
			fillBatch(b, content)
			n, err := b.store(sink, cluster, size)
			if err != nil {
				t.Fatal(err)
			}
			for i := range tt.ops {
				tt.ops[i].Offset *= cluster
				tt.ops[i].Length = min(tt.ops[i].Length*cluster, size-tt.ops[i].Offset)
			}
			for _, w := range tt.writes {
				for i := range w {
					w[i] *= cluster
				}
				if want := int64(len(w) * cluster); n != want {
					t.Errorf("stored %d bytes, want %d", n, want)
				}
			}
			if !reflect.DeepEqual(sink.Writes(), tt.writes) {
				t.Errorf("writes %v, want %v", sink.Writes(), tt.writes)
			}
			if got := sink.Extents(t); !reflect.DeepEqual(got, tt.ops) {
				t.Errorf("operations %v, want %v", got, tt.ops)
			}
			for off, got := range sink.Bytes {
				want := content(int64(off))
				if tt.content[off/cluster] == '_' {
					want = '_'
				}
				if got != want {
					t.Fatalf("byte %d is %q, want %q", off, got, want)
				}
			}
		})
	}
}

// Planning, reading and storing random disks gives back the disk.
func TestBatchesKeepContent(t *testing.T) {
	const cluster, buffer = 4096, 4 * 4096
	for seed := range uint64(50) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		size := rnd.Int64N(40*cluster) + 1
		disk := make([]byte, size)
		zero := &flags{set: make([]bool, size), flag: wireZero}
		for off := int64(0); off < size; off += cluster / 2 {
			kind := rnd.IntN(3) // data, zeros that the server knows of, zeros that it does not
			for i := off; i < min(off+cluster/2, size); i++ {
				zero.set[i] = kind == 1
				if kind == 0 {
					disk[i] = byte(rnd.IntN(255) + 1)
				}
			}
		}
		sink := &extenttest.Recorder{Cluster: cluster, Size: size, Bytes: bytes.Repeat([]byte{0xdd}, int(size))}
		for _, b := range planAll(t, &extents{size: size, cluster: cluster, alloc: zero.cursor(8*cluster, stateZero)}, sink, buffer) {
			fillBatch(b, func(off int64) byte { return disk[off] })
			if _, err := b.store(sink, cluster, size); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(sink.Bytes, disk) {
			t.Errorf("seed %d: the disk differs", seed)
		}
		var want []extent.Extent // by cluster, from the disk alone
		for off := int64(0); off < size; off += cluster {
			e := extenttest.Data(off, min(cluster, size-off))
			if isZero(disk[off:e.End()]) {
				e.Status = extent.Zero
			}
			if n := len(want); n > 0 && want[n-1].Status == e.Status {
				want[n-1].Length += e.Length
				continue
			}
			want = append(want, e)
		}
		if got := sink.Extents(t); !reflect.DeepEqual(got, want) {
			t.Errorf("seed %d: operations %v, want %v", seed, got, want)
		}
	}
}

func TestStoreErrors(t *testing.T) {
	broken := errors.New("broken sink")
	for _, op := range []string{"write", "zero"} {
		sink := &extenttest.Recorder{Cluster: 4096, Size: 1 << 20, Fail: func(o string, _ int64) error {
			if o == op {
				return broken
			}
			return nil
		}}
		b := &batch{buf: <-testPool(t, 1, 8192).free, offsets: []int64{65536, 131072}}
		b.buf[4096] = 1
		_, err := b.store(sink, 4096, sink.Size)
		want := map[string]string{"write": "offset 131072", "zero": "offset 65536"}[op]
		if !errors.Is(err, broken) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want the sink's, with %s", op, err, want)
		}
	}
}

func TestPlannerErrors(t *testing.T) {
	broken := errors.New("broken sink")
	const size = 1 << 20
	zero := parseFlags("Z", size, size, wireZero)
	p := &planner{extents: &extents{size: size, cluster: 4096, alloc: zero.cursor(1<<30, stateZero)},
		sink: &extenttest.Recorder{Cluster: 4096, Size: size, Fail: func(string, int64) error { return broken }},
		pool: testPool(t, 1, 4096), out: make(chan *batch, 1), report: func(extent.Extent) {}}
	err := p.run(context.Background())
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "offset 0") {
		t.Errorf("error %v, want the sink's, with the offset", err)
	}
}

// A planner that waits for a buffer, or for a reader, ends with its context.
func TestPlannerEndsWithItsContext(t *testing.T) {
	stop := errors.New("stop")
	for name, p := range map[string]*planner{
		"no buffer": {pool: &pool{}, out: make(chan *batch, 1)},
		"no reader": {pool: testPool(t, 1, 4096), out: make(chan *batch)},
	} {
		ctx, cancel := context.WithCancelCause(context.Background())
		p.extents = &extents{size: 1 << 20, cluster: 4096}
		p.report = func(extent.Extent) {}
		done := make(chan error)
		go func() { done <- p.run(ctx) }()
		cancel(stop)
		if err := <-done; !errors.Is(err, stop) {
			t.Errorf("%s: error %v, want %v", name, err, stop)
		}
	}
}

func TestIsZero(t *testing.T) {
	for n := range 200 {
		p := make([]byte, n)
		if !isZero(p) {
			t.Errorf("%d zeros are not zero", n)
		}
		for i := range p {
			p[i] = 1
			if isZero(p) {
				t.Errorf("a one at %d of %d is zero", i, n)
			}
			p[i] = 0
		}
	}
}

func BenchmarkIsZero(b *testing.B) {
	p := make([]byte, bufferSize)
	b.SetBytes(bufferSize)
	for b.Loop() {
		if !isZero(p) {
			b.Fatal("not zero")
		}
	}
}
