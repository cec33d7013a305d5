package qcow2

import (
	"bytes"
	"cmp"
	"container/list"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
)

// maxTableBytes bounds the L2 tables in memory: 256 of 64 KiB, which map
// 128 GiB. Copies run in guest order but for what the connections have in
// flight, so a table that leaves is hardly ever needed again.
const maxTableBytes = 16 << 20

// table is one L2 table in memory, as it will be in the file.
type table struct {
	index   int    // in the L1 table
	entries []byte // big endian, one cluster
	home    int64  // its place in the file; 0 while it has none
	zeros   int    // entries that are entryZero, counted since it came to memory
}

// tables maps guest clusters to host clusters. The tables used last are in
// memory. Others are spilled: collected in a segment of their own, which is
// written when full. That is their final place; a table that is touched again
// is read from there, and later written back there, in a write of the whole
// segment (see File).
//
// A table of nothing but zero clusters is not kept: all of them share one table
// in the file, so that a discard of a whole disk costs next to nothing.
type tables struct {
	segs        *segments
	clusterSize int
	perTable    int64 // entries of a table
	limit       int   // tables in memory

	mu       sync.Mutex
	l1       []uint64              // by index: the home of the table, tableZero, or 0
	resident map[int]*list.Element // of *table, by index
	recent   list.List             // of *table, used last in front
	spill    *segment              // where spilled tables are collected; nil before the first and when just written
	scratch  []byte                // page-aligned segment to read into; nil until needed
}

// tableZero in place of a home: every entry of the table is entryZero.
const tableZero = 1

func newTables(segs *segments, clusterSize int, clusters int64) *tables {
	perTable := int64(clusterSize / 8)
	return &tables{
		segs:        segs,
		clusterSize: clusterSize,
		perTable:    perTable,
		limit:       maxTableBytes / clusterSize,
		l1:          make([]uint64, (clusters+perTable-1)/perTable),
		resident:    map[int]*list.Element{},
	}
}

// mapData enters host clusters, which follow each other from host on, for the
// guest clusters at the given offsets.
func (ts *tables) mapData(offsets []int64, host int64) error {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for i, offset := range offsets {
		entry := uint64(host+int64(i*ts.clusterSize)) | entryCopied
		if err := ts.fill(offset/int64(ts.clusterSize), 1, entry); err != nil {
			return err
		}
	}
	return nil
}

// mapEntries enters L2 entries, one for each of the guest clusters at the given
// offsets.
func (ts *tables) mapEntries(offsets []int64, entries []uint64) error {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for i, offset := range offsets {
		if err := ts.fill(offset/int64(ts.clusterSize), 1, entries[i]); err != nil {
			return err
		}
	}
	return nil
}

// openSegment is where spilled tables are being collected; nil: nowhere.
func (ts *tables) openSegment() *segment {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return ts.spill
}

// mapZero enters n guest clusters from first on as zero clusters.
func (ts *tables) mapZero(first, n int64) error {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for n > 0 {
		step := min(n, ts.perTable-first%ts.perTable)
		if step == ts.perTable && ts.untouched(int(first/ts.perTable)) {
			ts.l1[first/ts.perTable] = tableZero
		} else if err := ts.fill(first, int(step), entryZero); err != nil {
			return err
		}
		first, n = first+step, n-step
	}
	return nil
}

func (ts *tables) untouched(index int) bool {
	return ts.l1[index] == 0 && ts.resident[index] == nil
}

// fill sets the entries of n clusters from first on, all in one table.
func (ts *tables) fill(first int64, n int, entry uint64) error {
	t, err := ts.get(int(first / ts.perTable))
	if err != nil {
		return err
	}
	if t == nil {
		return ts.writtenTwice(first)
	}
	at := int(first % ts.perTable)
	for i := at; i < at+n; i++ {
		slot := t.entries[i*8 : i*8+8]
		if binary.BigEndian.Uint64(slot) != 0 {
			return ts.writtenTwice(first + int64(i-at))
		}
		binary.BigEndian.PutUint64(slot, entry)
	}
	if entry == entryZero {
		t.zeros += n
		ts.dropIfZero(t)
	}
	return nil
}

func (ts *tables) writtenTwice(cluster int64) error {
	return fmt.Errorf("guest cluster at offset %d is written twice", cluster*int64(ts.clusterSize))
}

// dropIfZero forgets a table of zero clusters only. One that already has a
// place in the file keeps it, which would be wasted otherwise.
func (ts *tables) dropIfZero(t *table) {
	if int64(t.zeros) < ts.perTable || t.home != 0 {
		return
	}
	ts.l1[t.index] = tableZero
	ts.recent.Remove(ts.resident[t.index])
	delete(ts.resident, t.index)
}

// get brings a table to memory; nil stands for one of zero clusters only.
func (ts *tables) get(index int) (*table, error) {
	if e := ts.resident[index]; e != nil {
		ts.recent.MoveToFront(e)
		return e.Value.(*table), nil
	}
	home := int64(ts.l1[index])
	if home == tableZero {
		return nil, nil
	}
	t := &table{index: index, home: home}
	if err := ts.makeRoom(t); err != nil {
		return nil, err
	}
	if home != 0 {
		if err := ts.load(t); err != nil {
			return nil, err
		}
	}
	ts.resident[index] = ts.recent.PushFront(t)
	return t, nil
}

// makeRoom gives t memory for its entries: that of the table that has not been
// used for longest, if there are as many as may be.
func (ts *tables) makeRoom(t *table) error {
	if ts.recent.Len() < ts.limit {
		t.entries = make([]byte, ts.clusterSize)
		return nil
	}
	old := ts.recent.Remove(ts.recent.Back()).(*table)
	delete(ts.resident, old.index)
	if err := ts.evict(old); err != nil {
		return err
	}
	t.entries = old.entries
	clear(t.entries)
	return nil
}

// evict puts a table into its place in the file.
func (ts *tables) evict(t *table) error {
	if t.home != 0 {
		return ts.rewrite(t)
	}
	if ts.spill == nil {
		ts.spill = ts.segs.open()
	}
	ts.l1[t.index] = uint64(ts.spill.add(t.entries))
	if ts.spill.room() > 0 {
		return nil
	}
	full := ts.spill
	ts.spill = nil
	return ts.segs.close(full)
}

// spilled returns the memory of a table that is still in the open segment.
func (ts *tables) spilled(home int64) []byte {
	if ts.spill == nil || ts.segs.start(home) != ts.spill.offset {
		return nil
	}
	at := home - ts.spill.offset
	return ts.spill.buf[at : at+int64(ts.clusterSize)]
}

func (ts *tables) load(t *table) error {
	from := ts.spilled(t.home)
	if from == nil {
		from = ts.scratchBuffer()[:ts.clusterSize]
		if err := ts.segs.read(from, t.home); err != nil {
			return fmt.Errorf("L2 table %d: %w", t.index, err)
		}
	}
	copy(t.entries, from)
	return nil
}

// rewrite puts tables that have a place in the file back, all of them in the
// same segment, which it reads and writes as a whole.
func (ts *tables) rewrite(group ...*table) error {
	if p := ts.spilled(group[0].home); p != nil {
		for _, t := range group {
			copy(ts.spilled(t.home), t.entries)
		}
		return nil
	}
	start := ts.segs.start(group[0].home)
	whole := ts.scratchBuffer()
	if err := ts.segs.read(whole, start); err != nil {
		return fmt.Errorf("L2 table %d: %w", group[0].index, err)
	}
	for _, t := range group {
		copy(whole[t.home-start:], t.entries)
	}
	return ts.segs.write(whole, start)
}

func (ts *tables) scratchBuffer() []byte {
	if ts.scratch == nil {
		ts.scratch = alignedBuffer(ts.segs.size)
	}
	return ts.scratch
}

// settle writes the tables that have a place in the file back to it, each
// segment once, and returns those that have none, in guest order. None are in
// memory of ts afterwards.
func (ts *tables) settle() (homeless []*table, err error) {
	var homed []*table
	for e := ts.recent.Front(); e != nil; e = e.Next() {
		if t := e.Value.(*table); t.home != 0 {
			homed = append(homed, t)
		} else {
			homeless = append(homeless, t)
		}
	}
	ts.recent.Init()
	clear(ts.resident)
	slices.SortFunc(homed, func(a, b *table) int { return cmp.Compare(a.home, b.home) })
	for len(homed) > 0 {
		start, n := ts.segs.start(homed[0].home), 1
		for n < len(homed) && ts.segs.start(homed[n].home) == start {
			n++
		}
		if err := ts.rewrite(homed[:n]...); err != nil {
			return nil, err
		}
		homed = homed[n:]
	}
	slices.SortFunc(homeless, func(a, b *table) int { return cmp.Compare(a.index, b.index) })
	return homeless, nil
}

// zeroTable is an L2 table of zero clusters only.
func zeroTable(clusterSize int) []byte {
	return bytes.Repeat([]byte{0, 0, 0, 0, 0, 0, 0, entryZero}, clusterSize/8)
}
