package graft

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/virtbackup/virtbackup/qcow2"
)

// Table is an L2 table in memory. What changes in it is in the image once it is closed.
type Table struct {
	image   *Image
	index   int64
	offset  int64 // of the table in the file; 0: it has none
	own     bool  // no other L1 entry points to it
	before  []byte
	entries []byte
}

// Table reads L2 table i; one that the image does not have is empty. The next call uses the
// same memory.
func (g *Image) Table(i int64) (*Table, error) {
	t := &Table{image: g, index: i, offset: qcow2.TableOffset(g.l1[i]), own: qcow2.IsCopied(g.l1[i]), before: g.tables[0], entries: g.tables[1]}
	clear(t.before)
	if t.offset != 0 {
		if err := readFull(g.file, t.before, t.offset); err != nil {
			return nil, fmt.Errorf("read L2 table %d: %w", i, err)
		}
	}
	copy(t.entries, t.before)
	return t, nil
}

// Entry is the L2 entry of cluster k of the table.
func (t *Table) Entry(k int) uint64 { return binary.BigEndian.Uint64(t.entries[k*8:]) }

func (t *Table) put(k int, entry uint64) { binary.BigEndian.PutUint64(t.entries[k*8:], entry) }

// Zero makes cluster k read as zeros: a zero cluster, or none if the image has no backing
// file.
func (t *Table) Zero(k int) error {
	entry := qcow2.ZeroEntry
	if t.image.h.BackingFile == "" {
		entry = 0
	}
	return t.replace(k, entry)
}

// Raw makes cluster k one that is not compressed. What it holds is the caller's to put at
// the offset of the file that is returned, which is where it was if it was such a cluster
// before.
func (t *Table) Raw(k int) (offset int64, err error) {
	if e := t.Entry(k); qcow2.HasData(e) && !qcow2.IsCompressed(e) && qcow2.IsCopied(e) {
		return t.image.h.DataOf(e).Offset, nil
	}
	c, err := t.image.space.one()
	if err != nil {
		return 0, err
	}
	offset = c * t.image.cluster
	return offset, t.replace(k, qcow2.CopiedEntry(offset))
}

// Packed makes cluster k a compressed one, of this frame. It is not kept.
func (t *Table) Packed(k int, frame []byte) error {
	if err := t.image.compresses(); err != nil {
		return err
	}
	at, err := t.image.pack.add(frame)
	if err != nil {
		return err
	}
	return t.replace(k, t.image.h.CompressedEntry(at, len(frame)))
}

// replace enters a cluster, and frees what was there.
func (t *Table) replace(k int, entry uint64) error {
	old := t.Entry(k)
	t.put(k, entry)
	first, n := t.image.holds(old)
	for c := first; c < first+n; c++ {
		if err := t.image.space.release(c); err != nil {
			return fmt.Errorf("L2 table %d, entry %d: %w", t.index, k, err)
		}
	}
	return nil
}

// holds are the host clusters of an L2 entry. A zero cluster may have one, too.
func (g *Image) holds(entry uint64) (first, n int64) {
	if !qcow2.IsCompressed(entry) {
		offset := qcow2.TableOffset(entry)
		return offset / g.cluster, min(offset, 1)
	}
	at := g.h.DataOf(entry)
	first = at.Offset / g.cluster
	return first, (at.End()-1)/g.cluster - first + 1
}

// Close puts the table into the image, where it has changed.
func (t *Table) Close() error {
	if bytes.Equal(t.before, t.entries) {
		return nil
	}
	t.image.count(t)
	switch {
	case bytes.Equal(t.entries, t.image.empty):
		return t.drop(0)
	case bytes.Equal(t.entries, t.image.zeros):
		offset, err := t.image.zeroTable()
		if err != nil {
			return err
		}
		return t.drop(uint64(offset)) // if no other entry points there it is marked in the end
	case !t.own:
		c, err := t.image.space.one()
		if err != nil {
			return err
		}
		if err := t.drop(qcow2.CopiedEntry(c * t.image.cluster)); err != nil {
			return err
		}
		t.offset = c * t.image.cluster
	}
	return t.image.write(t.entries, t.offset, "L2 table")
}

// drop gives the table another L1 entry.
func (t *Table) drop(entry uint64) error {
	t.image.l1[t.index] = entry
	if t.offset == 0 {
		return nil
	}
	if err := t.image.space.release(t.offset / t.image.cluster); err != nil {
		return err
	}
	if count, err := t.image.space.counts.get(t.offset / t.image.cluster); t.offset != t.image.zeroAt || count > 0 || err != nil {
		return err
	}
	t.image.zeroAt = 0 // the next one who needs a cluster may get it
	return nil
}

// zeroTable is where a table of zero clusters only is, which many L1 entries share, as in
// images of package qcow2. The caller is one more of them.
func (g *Image) zeroTable() (int64, error) {
	if g.zeroAt != 0 {
		count, err := g.space.counts.get(g.zeroAt / g.cluster)
		if err != nil || count < maxRefcount {
			return g.zeroAt, errOr(err, func() error { return g.space.share(g.zeroAt / g.cluster) })
		}
	}
	c, err := g.space.one()
	if err != nil {
		return 0, err
	}
	g.zeroAt = c * g.cluster
	return g.zeroAt, g.write(g.zeros, g.zeroAt, "L2 table")
}

// errOr calls do if there is no error yet.
func errOr(err error, do func() error) error {
	if err != nil {
		return err
	}
	return do()
}
