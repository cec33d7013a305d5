package graft

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/virtbackup/virtbackup/qcow2"
)

// File is the file of the image.
type File interface {
	// ReadAt is that of io.ReaderAt, for tables. It returns what was written last.
	io.ReaderAt
	// WriteAt gets whole clusters, one at a time, that are its caller's again when it returns.
	io.WriterAt
}

// Image is an image that is being changed, by one goroutine. The file is not a valid image
// until Finish. Memory is some 20 MiB and 8 bytes for each of its L2 tables.
type Image struct {
	file    File
	h, was  qcow2.Header
	cluster int64
	l1      []uint64
	l1Was   []uint64
	space   *space
	pack    packer

	tables       [2][]byte // memory of a Table
	empty, zeros []byte    // tables without clusters, and of zero clusters
	zeroAt       int64     // where a table of zero clusters is that was written here; 0: there is none

	data, zero int64 // how many bytes the disk has more of than before
}

// ErrForeign is what errors of Open wrap if the image is not one of package qcow2 and this
// one.
var ErrForeign = errors.New("not an image of virtbackup")

// Open reads the header, the L1 table and the refcount table of an image of so many bytes.
// The file stays the caller's.
func Open(f File, length int64) (*Image, error) {
	h, err := qcow2.ReadHeader(f)
	if err != nil {
		return nil, err
	}
	switch cs := int64(h.ClusterSize); {
	case h.Version != 3 || h.Incompatible&^qcow2.IncompatibleCompression != 0 || h.Autoclear|h.Compatible != 0 || h.Encryption|h.Snapshots != 0 || h.RefcountOrder != refcountOrder:
		return nil, fmt.Errorf("%w: version %d, features %#x %#x %#x, encryption %d, %d snapshots, refcount order %d", ErrForeign,
			h.Version, h.Incompatible, h.Compatible, h.Autoclear, h.Encryption, h.Snapshots, h.RefcountOrder)
	case h.Incompatible != 0 && h.Compression != qcow2.CompressionZstd:
		return nil, fmt.Errorf("%w: compression type %d", ErrForeign, h.Compression)
	case length%cs != 0:
		return nil, fmt.Errorf("%w: its length of %d bytes is not a multiple of the cluster size", ErrForeign, length)
	}
	g := &Image{file: f, h: h, was: h, cluster: int64(h.ClusterSize)}
	for _, p := range []*[]byte{&g.tables[0], &g.tables[1], &g.empty, &g.pack.buf} {
		*p = make([]byte, h.ClusterSize)
	}
	g.zeros = bytes.Repeat(binary.BigEndian.AppendUint64(nil, qcow2.ZeroEntry), h.ClusterSize/8)
	g.pack.image = g
	if g.l1, err = g.readTable(h.L1Offset, int64(h.L1Entries)); err != nil {
		return nil, fmt.Errorf("read the L1 table: %w", err)
	}
	g.l1Was = append(g.l1Was, g.l1...)
	counts := &refcounts{file: f, cluster: g.cluster, blocks: map[int64]*block{}}
	if counts.table, err = g.readTable(h.RefcountTableOffset, int64(h.RefcountTableClusters)*g.cluster/8); err != nil {
		return nil, fmt.Errorf("read the refcount table: %w", err)
	}
	g.space = &space{counts: counts, end: length / g.cluster, old: length / g.cluster, next: 1, wide: 1}
	return g, nil
}

// readTable reads entries of 8 bytes.
func (g *Image) readTable(offset, n int64) ([]uint64, error) {
	p := make([]byte, g.cluster)
	var entries []uint64
	for ; n > 0; n, offset = n-g.cluster/8, offset+g.cluster {
		p := p[:min(n*8, g.cluster)]
		if err := readFull(g.file, p, offset); err != nil {
			return nil, err
		}
		for ; len(p) > 0; p = p[8:] {
			entries = append(entries, binary.BigEndian.Uint64(p))
		}
	}
	return entries, nil
}

func (g *Image) write(p []byte, offset int64, what string) error {
	if _, err := g.file.WriteAt(p, offset); err != nil {
		return fmt.Errorf("write %s at offset %d of the qcow2 image: %w", what, offset, err)
	}
	return nil
}

// Header is that of the image as it was opened.
func (g *Image) Header() qcow2.Header { return g.was }

// compresses says that the image has compressed clusters.
func (g *Image) compresses() error {
	g.h.Incompatible |= qcow2.IncompatibleCompression
	g.h.Compression = qcow2.CompressionZstd
	return nil
}

// Resize gives the disk another size, in bytes. Clusters behind its new end are freed. It
// comes before any change.
func (g *Image) Resize(size int64) error {
	if err := (qcow2.Options{VirtualSize: size, ClusterSize: g.h.ClusterSize}).Validate(); err != nil {
		return err
	}
	if size == g.h.VirtualSize {
		return nil
	}
	covers := g.h.TableCovers()
	old := g.h.VirtualSize
	g.h.VirtualSize = size
	for i := min(old, size) / covers; i*covers < old; i++ {
		if err := g.cut(i, old); err != nil {
			return err
		}
	}
	n := g.h.Tables()
	for int64(len(g.l1)) < n {
		g.l1 = append(g.l1, 0)
	}
	g.l1 = g.l1[:n]
	return nil
}

// cut drops the clusters of a table behind the end of the disk, which had another size.
func (g *Image) cut(i, old int64) error {
	t, err := g.Table(i)
	if err != nil {
		return err
	}
	data, zero := g.bytesOf(t.before, i, old)
	for k := range len(t.entries) / 8 {
		if i*g.h.TableCovers()+int64(k)*g.cluster >= g.h.VirtualSize {
			if err := t.replace(k, 0); err != nil {
				return err
			}
		}
	}
	nowData, nowZero := g.bytesOf(t.before, i, g.h.VirtualSize)
	g.data, g.zero = g.data+nowData-data, g.zero+nowZero-zero
	return t.Close()
}

// count takes note of what a table has more of than before.
func (g *Image) count(t *Table) {
	data, zero := g.bytesOf(t.before, t.index, g.h.VirtualSize)
	nowData, nowZero := g.bytesOf(t.entries, t.index, g.h.VirtualSize)
	g.data, g.zero = g.data+nowData-data, g.zero+nowZero-zero
}

// bytesOf is how many bytes of a disk of that size a table has data and zero clusters for.
func (g *Image) bytesOf(entries []byte, i, size int64) (data, zero int64) {
	at := i * g.h.TableCovers()
	for ; len(entries) > 0 && at < size; entries, at = entries[8:], at+g.cluster {
		switch e := binary.BigEndian.Uint64(entries); {
		case qcow2.HasData(e):
			data += min(g.cluster, size-at)
		case qcow2.IsZero(e):
			zero += min(g.cluster, size-at)
		}
	}
	return data, zero
}

// Stats say what has become of the image.
type Stats struct {
	Length    int64 // of the file, bytes
	DataBytes int64 // of the disk that have data clusters, more than before
	ZeroBytes int64 // that have zero clusters, more than before
}

// Finish writes what makes the file an image again, the header last. Whatever the file has
// behind the length that it returns is the caller's to cut off.
func (g *Image) Finish() (Stats, error) {
	for _, step := range []func() error{g.pack.leave, g.markTables, g.placeL1, g.placeRefcounts, g.space.trim,
		g.writeL1, g.space.counts.flush, g.writeRefcountTable, g.writeHeader} {
		if err := step(); err != nil {
			return Stats{}, fmt.Errorf("finish qcow2 image: %w", err)
		}
	}
	return Stats{g.space.end * g.cluster, g.data, g.zero}, nil
}

// Freed are the ranges of the file, after Finish, that were in use before and are not any
// more: their offsets and lengths, of at most so many clusters. The caller makes them read
// as zeros: nothing may be left of what was there.
func (g *Image) Freed(most int64) iter.Seq2[int64, int64] {
	return func(yield func(offset, length int64) bool) {
		for c, n := range g.space.freed.Runs(most) {
			if !yield(c*g.cluster, n*g.cluster) {
				return
			}
		}
	}
}

// markTables marks L1 entries whose table was shared and is not any more: QEMU takes an
// entry without the mark for damage if the refcount is one.
func (g *Image) markTables() error {
	for i, entry := range g.l1 {
		if entry == 0 || qcow2.IsCopied(entry) {
			continue
		}
		count, err := g.space.counts.get(qcow2.TableOffset(entry) / g.cluster)
		if err != nil {
			return err
		}
		if count == 1 {
			g.l1[i] = qcow2.CopiedEntry(int64(entry))
		}
	}
	return nil
}

// clustersOf is how many clusters a table of n entries takes.
func (g *Image) clustersOf(n int) int64 { return (int64(n)*8 + g.cluster - 1) / g.cluster }

// place moves a table to where it fits, if it has grown, and frees what it does not need.
func (g *Image) place(offset, had, need int64) (int64, error) {
	from, keep := offset/g.cluster, min(had, need)
	if need > had {
		c, err := g.space.run(need)
		if err != nil {
			return 0, err
		}
		offset, keep = c*g.cluster, 0
	}
	for c := from + keep; c < from+had; c++ {
		if err := g.space.release(c); err != nil {
			return 0, err
		}
	}
	return offset, nil
}

func (g *Image) placeL1() (err error) {
	g.h.L1Entries = len(g.l1)
	g.h.L1Offset, err = g.place(g.h.L1Offset, g.clustersOf(len(g.l1Was)), g.clustersOf(len(g.l1)))
	return err
}

// placeRefcounts moves the refcount table, which may have become longer by that.
func (g *Image) placeRefcounts() error {
	counts := g.space.counts
	for int64(g.h.RefcountTableClusters) < g.clustersOf(len(counts.table)) {
		need := g.clustersOf(len(counts.table))
		offset, err := g.place(g.h.RefcountTableOffset, int64(g.h.RefcountTableClusters), need)
		if err != nil {
			return err
		}
		g.h.RefcountTableOffset, g.h.RefcountTableClusters = offset, int(need)
		counts.changed = true
	}
	return nil
}

func (g *Image) writeL1() error {
	moved := g.h.L1Offset != g.was.L1Offset
	return g.writeTable("L1 table", g.h.L1Offset, g.l1, func(from, to int) bool {
		return moved || !equalPart(g.l1, g.l1Was, from, to)
	})
}

// equalPart tells whether two tables have the same entries between two indices.
func equalPart(a, b []uint64, from, to int) bool {
	for i := from; i < to; i++ {
		if (i < len(a)) != (i < len(b)) || i < len(a) && a[i] != b[i] {
			return false
		}
	}
	return true
}

func (g *Image) writeRefcountTable() error {
	return g.writeTable("refcount table", g.h.RefcountTableOffset, g.space.counts.table, func(int, int) bool { return g.space.counts.changed })
}

// writeTable writes the clusters of a table that have changed.
func (g *Image) writeTable(what string, offset int64, entries []uint64, changed func(from, to int) bool) error {
	per := int(g.cluster / 8)
	for from := 0; from < len(entries); from, offset = from+per, offset+g.cluster {
		if !changed(from, from+per) {
			continue
		}
		p := make([]byte, 0, g.cluster)
		for _, entry := range entries[from:min(from+per, len(entries))] {
			p = binary.BigEndian.AppendUint64(p, entry)
		}
		if err := g.write(p[:g.cluster], offset, what); err != nil {
			return err
		}
	}
	return nil
}

func (g *Image) writeHeader() error {
	if g.h == g.was {
		return nil
	}
	p := make([]byte, g.cluster)
	copy(p, g.h.Encode())
	return g.write(p, 0, "header")
}
