package qcow2

import (
	"encoding/binary"
	"fmt"
)

// Finish writes what makes the file an image: L2 tables, L1 table, refcount
// blocks and refcount table. Then it calls sync, which puts all that on stable
// storage (nil: nothing to do), and only then writes the range with the header.
// The caller syncs once more. No other call may be under way.
//
// After a failed Write or Zero it writes nothing and returns that first error.
func (w *Writer) Finish(sync func() error) (Stats, error) {
	if err := w.usable(); err != nil {
		return Stats{}, err
	}
	w.failMu.Lock()
	w.finished = true
	w.failMu.Unlock()
	end, err := w.finish(sync)
	if err != nil {
		return Stats{}, w.fail(fmt.Errorf("finish qcow2 image: %w", err))
	}
	return Stats{DataBytes: w.data.Load(), ZeroBytes: w.zero.Load(), FileBytes: end}, nil
}

func (w *Writer) finish(sync func() error) (end int64, err error) {
	homeless, err := w.tables.settle()
	if err != nil {
		return 0, err
	}
	m := newMetadata(w)
	if err := m.writeL2(homeless); err != nil {
		return 0, err
	}
	h := Header{
		Version:       3,
		ClusterSize:   w.options.ClusterSize,
		VirtualSize:   w.options.VirtualSize,
		BackingFile:   w.options.BackingFile,
		BackingFormat: w.options.BackingFormat,
		Mark:          w.options.Mark,
		RefcountOrder: refcountOrder,
	}
	if w.options.compressed() {
		h.Incompatible, h.Compression = IncompatibleCompression, CompressionZstd
	}
	if err := m.writeL1(&h); err != nil {
		return 0, err
	}
	if err := m.writeRefcounts(&h); err != nil {
		return 0, err
	}
	if err := m.flush(); err != nil {
		return 0, err
	}
	// The first segment is written twice: were a crash to tear its only write,
	// the header could be there without what it points to.
	first := w.first.buf[:min(int64(len(w.first.buf)), m.end)]
	if err := m.segs.write(first, 0); err != nil {
		return 0, err
	}
	if sync != nil {
		if err := sync(); err != nil {
			return 0, fmt.Errorf("sync the qcow2 image: %w", err)
		}
	}
	copy(first, h.Encode())
	return m.end, m.segs.write(first, 0)
}

// metadata writes the metadata clusters where the layout places them. Into each
// segment they go from front to back, so a segment is written when it is full.
type metadata struct {
	*layout
	segs    *segments
	tables  *tables
	counts  *refcounts
	open    map[int64]*segment // by offset
	unused  map[int64]bool     // offsets of segments with nothing in them so far
	cluster []byte             // to encode a cluster in
}

func newMetadata(w *Writer) *metadata {
	m := &metadata{
		segs:    w.segs,
		tables:  w.tables,
		open:    map[int64]*segment{},
		counts:  w.counts,
		unused:  map[int64]bool{},
		cluster: make([]byte, w.options.ClusterSize),
	}
	var gaps []gap
	for _, s := range w.openSegments() {
		if m.open[s.offset] == nil {
			m.open[s.offset] = s
			s.align(w.options.ClusterSize)
			gaps = append(gaps, gap{s.offset + int64(s.used), s.offset + int64(len(s.buf))})
		}
	}
	if w.stream != nil {
		for at := w.stream.next; at < w.stream.end; at += int64(w.segs.size) {
			m.unused[at] = true
			gaps = append(gaps, gap{at, at + int64(w.segs.size)})
		}
	}
	for _, g := range gaps {
		m.counts.settle(g)
	}
	m.layout = newLayout(w.options.ClusterSize, w.segs.next.Load(), gaps)
	return m
}

// put writes one cluster at a place that the layout gave, in the order given.
func (m *metadata) put(p []byte, offset int64) error {
	start := m.segs.start(offset)
	s := m.open[start]
	if s == nil {
		s = m.segs.at(start)
		m.open[start] = s
		delete(m.unused, start)
	}
	if at := s.add(p); at != offset {
		return fmt.Errorf("metadata for offset %d of the qcow2 image went to %d", offset, at)
	}
	if s.room() > 0 || start == 0 {
		return nil
	}
	delete(m.open, start)
	return m.segs.close(s)
}

// flush writes the segments that did not get full, but for the first. The last
// segment of the file ends with what it holds.
func (m *metadata) flush() error {
	for start := range m.unused {
		if start < m.end {
			m.open[start] = m.segs.at(start)
		}
	}
	for start, s := range m.open {
		clear(s.buf[s.used:])
		if start == 0 {
			continue
		}
		if err := m.segs.write(s.buf[:min(int64(len(s.buf)), m.end-start)], start); err != nil {
			return err
		}
	}
	return nil
}

func (m *metadata) writeL2(homeless []*table) error {
	for _, t := range homeless {
		offset := m.take(1)
		if err := m.put(t.entries, offset); err != nil {
			return fmt.Errorf("L2 table %d: %w", t.index, err)
		}
		m.tables.l1[t.index] = uint64(offset)
		t.entries = nil
	}
	for i, home := range m.tables.l1 {
		if home > tableZero {
			m.tables.l1[i] |= entryCopied
		}
	}
	return m.writeZeroTables()
}

// writeZeroTables writes one table for all that hold zero clusters only. Shared
// like those of a snapshot, it is not marked as copied. As many tables share it
// as a refcount can count.
func (m *metadata) writeZeroTables() error {
	offset := int64(0)
	for i, home := range m.tables.l1 {
		if home != tableZero {
			continue
		}
		if offset == 0 || m.counts.except[offset/m.clusterSize] == maxRefcount {
			offset = m.take(1)
			if err := m.put(zeroTable(int(m.clusterSize)), offset); err != nil {
				return fmt.Errorf("L2 table %d: %w", i, err)
			}
		}
		m.counts.except[offset/m.clusterSize]++
		m.tables.l1[i] = uint64(offset)
	}
	for i, home := range m.tables.l1 {
		if home != 0 && home&entryCopied == 0 && m.counts.except[int64(home)/m.clusterSize] == 1 {
			m.tables.l1[i] |= entryCopied
		}
	}
	return nil
}

func (m *metadata) writeL1(h *Header) error {
	h.L1Entries = len(m.tables.l1)
	if h.L1Entries == 0 { // a disk of no size
		return nil
	}
	h.L1Offset = m.take(clusters(int64(h.L1Entries*8), int(m.clusterSize)))
	return m.writeTable("L1 table", h.L1Offset, m.tables.l1)
}

// writeTable writes entries of 8 bytes as whole clusters.
func (m *metadata) writeTable(what string, offset int64, entries []uint64) error {
	for len(entries) > 0 {
		n := min(len(entries), len(m.cluster)/8)
		for i, entry := range entries[:n] {
			binary.BigEndian.PutUint64(m.cluster[i*8:], entry)
		}
		clear(m.cluster[n*8:])
		if err := m.put(m.cluster, offset); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		entries, offset = entries[n:], offset+m.clusterSize
	}
	return nil
}

func (m *metadata) writeRefcounts(h *Header) error {
	blocks, table := m.takeRefcounts(m.counts.home)
	m.counts.clusters = m.end / m.clusterSize
	for _, g := range m.gaps {
		for at := g.at; at < g.end; at += m.clusterSize {
			m.counts.except[at/m.clusterSize] = 0
		}
	}
	entries := make([]uint64, len(blocks))
	for i, offset := range blocks {
		entries[i] = uint64(offset)
		if m.counts.home(int64(i)) != 0 {
			continue
		}
		m.counts.block(int64(i), m.cluster)
		if err := m.put(m.cluster, offset); err != nil {
			return fmt.Errorf("refcount block %d: %w", i, err)
		}
	}
	if len(entries)*8 > maxRefTableBytes {
		return fmt.Errorf("refcount table of %d bytes: more than the %d that QEMU opens", len(entries)*8, maxRefTableBytes)
	}
	h.RefcountTableOffset = table
	h.RefcountTableClusters = int(clusters(int64(len(entries)*8), len(m.cluster)))
	return m.writeTable("refcount table", table, entries)
}
