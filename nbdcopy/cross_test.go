package nbdcopy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/extent"
	"github.com/virtbackup/virtbackup/extent/extenttest"
)

// What servers send. With the constants of the code, a test would only show that the
// code agrees with itself.
const (
	wireZero  = 1 << 1 // NBD_STATE_ZERO; NBD_STATE_HOLE is 1 << 0
	wireDirty = 1 << 0 // qemu:dirty-bitmap
)

// flags is one metadata context of a small disk: a flag for each byte. It
// answers block status as a server may, cutting and lengthening its replies as
// rnd says (nil: whole replies). Where the flag is not set all others are, that of a hole
// among them, which alone says nothing of what is read there.
type flags struct {
	set  []bool
	flag uint32
	rnd  *rand.Rand
}

// parseFlags makes flags from text: each rune stands for unit bytes, set ones
// are upper case.
func parseFlags(text string, unit int, size int64, flag uint32) *flags {
	f := &flags{set: make([]bool, size), flag: flag}
	for i := range f.set {
		f.set[i] = strings.ToUpper(text[i/unit:i/unit+1]) == text[i/unit:i/unit+1]
	}
	return f
}

func (f *flags) status(_ context.Context, offset, length int64) ([]entry, error) {
	size := int64(len(f.set))
	if offset < 0 || length <= 0 || offset+length > size {
		return nil, fmt.Errorf("request [%d, +%d) is outside of the disk of %d bytes", offset, length, size)
	}
	var entries []entry
	for pos := offset; pos < offset+length; {
		end := pos + 1
		for end < size && f.set[end] == f.set[pos] && (f.rnd == nil || f.rnd.IntN(8) > 0) {
			end++ // the last one may overshoot
		}
		e := entry{length: end - pos, flags: ^f.flag}
		if f.set[pos] {
			e.flags = f.flag
		}
		entries = append(entries, e)
		pos = end
		if f.rnd != nil && f.rnd.IntN(4) == 0 {
			break // short reply
		}
	}
	if f.rnd != nil && f.rnd.IntN(4) == 0 {
		entries[len(entries)-1].length = f.rnd.Int64N(entries[len(entries)-1].length) + 1
	}
	if f.rnd != nil && f.rnd.IntN(8) == 0 {
		entries = append(entries, entry{})
	}
	return entries, nil
}

func (f *flags) cursor(window int64, flag uint32) *cursor {
	return &cursor{status: f.status, size: int64(len(f.set)), window: window, flag: flag}
}

// all collects what extents yields, and checks that it is in one piece.
func all(x *extents) ([]extent.Extent, error) {
	var list []extent.Extent
	pos := int64(0)
	for {
		e, err := x.next(context.Background())
		if errors.Is(err, io.EOF) {
			if pos != x.size {
				return list, fmt.Errorf("the extents end at %d, not at %d", pos, x.size)
			}
			return list, nil
		}
		if err != nil {
			return list, err
		}
		if e.Offset != pos || e.Length <= 0 || (e.End()%x.cluster != 0 && e.End() != x.size) {
			return list, fmt.Errorf("extent %v does not follow %d, or does not end at a cluster", e, pos)
		}
		pos = e.End()
		list = append(list, e)
	}
}

// clusters writes a list of extents as one letter per cluster.
func clusters(list []extent.Extent, cluster int64) string {
	var b strings.Builder
	for _, e := range list {
		for off := e.Offset; off < e.End(); off += cluster {
			b.WriteByte("czd"[e.Status])
		}
	}
	return b.String()
}

// Each rune is a quarter of a cluster, upper case is dirty or zero; the wanted
// text has one letter per cluster: clean, zero or data.
func TestExtents(t *testing.T) {
	tests := []struct {
		name      string
		dirty     string // "": no bitmap
		zero      string // "": no allocation context
		dirtyFrom int64
		want      string
	}{
		{name: "full", zero: "ZZZZ dddd ZZZZ dddd", want: "zdzd"},
		{name: "full, a zero run ends inside a cluster", zero: "ZZZZ ZZdd dddd", want: "zdd"},
		{name: "full, a data run ends inside a cluster", zero: "dddd ddZZ ZZZZ", want: "ddz"},
		{name: "full, zeros inside a cluster", zero: "dZZd ZddZ", want: "dd"},
		{name: "full without allocation", want: "dddd"},
		{name: "incremental", dirty: "cccc DDDD DDDD cccc", zero: "dddd dddd ZZZZ ZZZZ", want: "cdzc"},
		{name: "no allocation context", dirty: "cccc DDDD ccDc cccc", want: "cddc"},
		{name: "part-dirty clusters", dirty: "cccD Dccc cDDc cccc", zero: "dddd dddd dddd dddd", want: "dddc"},
		{name: "clean until inside a cluster", dirty: "cccc ccDD DDDD", zero: "dddd dddd dddd", want: "cdd"},
		{name: "part dirty, all zero", dirty: "cccc cDcc cccc", zero: "dddd ZZZZ dddd", want: "czc"},
		{name: "part dirty, the clean part is data", dirty: "cccc cDcc cccc", zero: "dddd dZdd dddd", want: "cdc"},
		{name: "unequal boundaries", dirty: "ccDD DDDD DDDD Dccc cccc", zero: "ZZZZ ZZdd ZZZZ ZZZd ZZZZ", want: "zdzdc"},
		{name: "all clean", dirty: "cccc cccc", zero: "dddd ZZZZ", want: "cc"},
		{name: "the end is inside a cluster", dirty: "cccc DDDD D", zero: "dddd ZZZZ d", want: "czd"},
		{name: "the end is inside a zero cluster", dirty: "cccc DDDD D", zero: "dddd dddd Z", want: "cdz"},
		{name: "the end is inside a clean cluster", dirty: "DDDD cccc c", zero: "dddd ZZZZ d", want: "dcc"},
		{name: "smaller than a cluster", dirty: "D", zero: "Z", want: "z"},
		{name: "grown at a cluster", dirty: "cccc cccc cccc", zero: "dddd dddd ZZZZ", dirtyFrom: 32, want: "cdz"},
		{name: "grown inside a cluster", dirty: "cccc cccc cccc", zero: "dddd dddd ZZZZ", dirtyFrom: 40, want: "cdz"},
		{name: "grown, dirty before", dirty: "cDcc cccc cccc", zero: "dddd dddd ZZZZ", dirtyFrom: 72, want: "dcz"},
		{name: "grown, dirty up to there", dirty: "cccc DDDD cccc", zero: "dddd dddd dddd", dirtyFrom: 56, want: "cdd"},
		{name: "grown beyond the end", dirty: "cccc DDDD", zero: "dddd dddd", dirtyFrom: 1000, want: "cd"},
	}
	const cluster, unit = 32, 8
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dirty, zero := strings.ReplaceAll(tt.dirty, " ", ""), strings.ReplaceAll(tt.zero, " ", "")
			size := int64(max(len(dirty), len(zero)) * unit)
			if size == 0 {
				size = int64(len(tt.want) * cluster)
			}
			x := &extents{size: size, cluster: cluster, dirtyFrom: tt.dirtyFrom}
			if dirty != "" {
				x.dirty = parseFlags(dirty, unit, size, wireDirty).cursor(1<<10, stateDirty)
			}
			if zero != "" {
				x.alloc = parseFlags(zero, unit, size, wireZero).cursor(1<<10, stateZero)
			}
			list, err := all(x)
			if err != nil {
				t.Fatal(err)
			}
			if got := clusters(list, cluster); got != tt.want {
				t.Errorf("clusters %s, want %s (%v)", got, tt.want, list)
			}
		})
	}
}

// An incremental must not cost a look at the allocation of what is clean.
func TestExtentsAskAllocationOnlyWhereDirty(t *testing.T) {
	const size = 1 << 40
	dirty := &script{replies: [][]entry{{{1 << 30, 0}}, {{65536, stateDirty}, {1<<30 - 65536, 0}}}}
	for range size>>31 - 1 {
		dirty.replies = append(dirty.replies, []entry{{bitmapWindow, 0}})
	}
	alloc := &script{replies: [][]entry{{{65536, 0}}}}
	x := &extents{size: size, cluster: 65536,
		dirty: &cursor{status: dirty.status, size: size, window: bitmapWindow, flag: stateDirty},
		alloc: &cursor{status: alloc.status, size: size, window: allocationWindow, flag: stateZero}}
	list, err := all(x)
	if err != nil {
		t.Fatal(err)
	}
	want := []extent.Extent{extenttest.Clean(0, 1<<30), extenttest.Data(1<<30, 65536), extenttest.Clean(1<<30+65536, size-1<<30-65536)}
	if !reflect.DeepEqual(list, want) {
		t.Errorf("extents %v, want %v", list, want)
	}
	if len(alloc.requests) != 1 {
		t.Errorf("allocation requests %v, want one", alloc.requests)
	}
}

// A disk of which nothing is known still comes in pieces: progress counts them.
func TestExtentsWithoutAllocationComeInPieces(t *testing.T) {
	list, err := all(&extents{size: 10 * allocationWindow, cluster: 65536})
	if err != nil || len(list) != 10 {
		t.Errorf("%d extents, %v; want 10", len(list), err)
	}
}

// model says per cluster what extents must yield, byte by byte.
func model(x *extents, dirty, zero *flags) string {
	var b strings.Builder
	for start := int64(0); start < x.size; start += x.cluster {
		isDirty, isZero := dirty == nil, zero != nil
		for off := start; off < min(start+x.cluster, x.size); off++ {
			isDirty = isDirty || dirty.set[off] || (x.dirtyFrom > 0 && off >= x.dirtyFrom)
			isZero = isZero && zero.set[off]
		}
		switch {
		case !isDirty:
			b.WriteByte('c')
		case isZero:
			b.WriteByte('z')
		default:
			b.WriteByte('d')
		}
	}
	return b.String()
}

// FuzzExtents compares extents with a model that looks at every byte.
func FuzzExtents(f *testing.F) {
	for seed := range uint64(300) {
		f.Add(seed, seed^0xdead, uint16(seed*37), uint8(seed), uint8(seed>>1))
	}
	f.Fuzz(func(t *testing.T, seed1, seed2 uint64, size uint16, cluster, mode uint8) {
		rnd := rand.New(rand.NewPCG(seed1, seed2))
		x := &extents{size: int64(size%2048) + 1, cluster: 1 << (cluster % 7)}
		window := x.cluster << rnd.IntN(8)
		var dirty, zero *flags
		if mode&1 != 0 {
			dirty = randomFlags(rnd, x.size, wireDirty)
			x.dirty = dirty.cursor(window<<rnd.IntN(3), stateDirty)
			if mode&2 != 0 {
				x.dirtyFrom = rnd.Int64N(x.size + 10)
			}
		}
		if mode&12 != 0 {
			zero = randomFlags(rnd, x.size, wireZero)
			x.alloc = zero.cursor(window, stateZero)
		}
		list, err := all(x)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := clusters(list, x.cluster), model(x, dirty, zero); got != want {
			t.Errorf("size %d, cluster %d, dirty from %d:\ngot  %s\nwant %s", x.size, x.cluster, x.dirtyFrom, got, want)
		}
	})
}

// randomFlags has runs of random lengths, of a random scale.
func randomFlags(rnd *rand.Rand, size int64, flag uint32) *flags {
	f := &flags{set: make([]bool, size), flag: flag, rnd: rnd}
	scale := int64(1) << rnd.IntN(9)
	on := rnd.IntN(2) == 0
	for pos := int64(0); pos < size; on = !on {
		for end := pos + 1 + rnd.Int64N(scale); pos < min(end, size); pos++ {
			f.set[pos] = on
		}
	}
	return f
}

// stripes answers that every other unit has its flag set, 4096 entries at a time.
func stripes(unit int64, flag uint32) statusFunc {
	entries := make([]entry, 0, 4096)
	return func(_ context.Context, offset, length int64) ([]entry, error) {
		entries = entries[:0]
		for pos := offset; pos < offset+length && len(entries) < cap(entries); {
			n := unit - pos%unit
			e := entry{length: n}
			if pos/unit%2 == 0 {
				e.flags = flag
			}
			entries = append(entries, e)
			pos += n
		}
		return entries, nil
	}
}

// BenchmarkExtents crosses two maps that change with every cluster, the worst
// that there is: dirty in pairs, data and zeros in turns.
func BenchmarkExtents(b *testing.B) {
	const cluster, size = 64 << 10, 64 << 30
	extentsSeen := 0
	for b.Loop() {
		x := &extents{size: size, cluster: cluster,
			dirty: &cursor{status: stripes(2*cluster, stateDirty), size: size, window: bitmapWindow, flag: stateDirty},
			alloc: &cursor{status: stripes(cluster, stateZero), size: size, window: allocationWindow, flag: stateZero}}
		for {
			if _, err := x.next(context.Background()); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				b.Fatal(err)
			}
			extentsSeen++
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(extentsSeen), "ns/extent")
}
