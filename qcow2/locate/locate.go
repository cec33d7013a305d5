// Package locate finds out what of a guest's disk is lost with damaged parts of its
// qcow2 image.
package locate

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/virtbackup/virtbackup/qcow2"
)

// Disk says which ranges of the guest's disk depend on each of the given parts of an
// image file: the clusters whose data lies there, and those that are found
// through the table entries that lie there. Result i belongs to part i. The
// parts are sorted and do not overlap; what is in them is not used, as they are
// what is damaged. A nil result means that nothing of the disk lies there: free
// space, refcounts.
//
// ok is false where the header is in one of the parts, or a table that is in
// none cannot be followed: then anything may be affected. Memory is one L2 table
// and the result, which grows with the parts.
func Disk(r io.ReaderAt, h qcow2.Header, parts []qcow2.Range) (disk [][]qcow2.Range, ok bool, err error) {
	l := &locator{r: r, h: h, parts: parts, disk: make([][]qcow2.Range, len(parts))}
	if len(l.hit(qcow2.Range{Offset: 0, Length: int64(h.ClusterSize)})) > 0 {
		return nil, false, nil
	}
	if err := l.walk(); err != nil {
		return nil, false, fmt.Errorf("locate in image: %w", err)
	}
	return l.disk, true, nil
}

type locator struct {
	r     io.ReaderAt
	h     qcow2.Header
	parts []qcow2.Range
	disk  [][]qcow2.Range
	table []byte
}

func (l *locator) walk() error {
	if l.h.ExternalData() {
		return fmt.Errorf("the data is in another file")
	}
	covers := l.h.TableCovers()
	for i := int64(0); i < l.h.Tables(); i++ {
		at := qcow2.Range{Offset: l.h.L1Offset + i*8, Length: 8}
		guest := qcow2.Range{Offset: i * covers, Length: covers}
		if l.lost(at, guest) {
			continue
		}
		var entry [8]byte
		if _, err := l.r.ReadAt(entry[:], at.Offset); err != nil {
			return fmt.Errorf("read L1 entry at offset %d: %w", at.Offset, err)
		}
		if table := qcow2.TableOffset(binary.BigEndian.Uint64(entry[:])); table != 0 {
			if err := l.walkTable(table, guest.Offset); err != nil {
				return err
			}
		}
	}
	return nil
}

// walkTable follows the L2 table at an offset of the file; guest is where on the
// disk it begins.
func (l *locator) walkTable(table, guest int64) error {
	cs, size := int64(l.h.ClusterSize), l.h.EntrySize()
	if l.table == nil {
		l.table = make([]byte, cs)
	}
	n, err := l.r.ReadAt(l.table, table)
	if err != nil && err != io.EOF {
		return fmt.Errorf("read L2 table at offset %d: %w", table, err)
	}
	for i := 0; i < len(l.table); i += size {
		cluster := qcow2.Range{Offset: guest + int64(i/size)*cs, Length: cs}
		if cluster.Offset >= l.h.VirtualSize {
			return nil
		}
		if l.lost(qcow2.Range{Offset: table + int64(i), Length: int64(size)}, cluster) {
			continue
		}
		if i+size > n {
			return fmt.Errorf("the file ends inside the L2 table at offset %d", table)
		}
		if data := l.h.DataOf(binary.BigEndian.Uint64(l.table[i:])); data.Length > 0 {
			l.lost(data, cluster)
		}
	}
	return nil
}

// lost notes that a range of the disk depends on a range of the file, and tells
// whether that touches any of the parts.
func (l *locator) lost(file, disk qcow2.Range) bool {
	hit := l.hit(file)
	disk.Length = min(disk.Length, l.h.VirtualSize-disk.Offset)
	if disk.Length <= 0 {
		return len(hit) > 0
	}
	for _, i := range hit {
		found := l.disk[i]
		if n := len(found); n > 0 && found[n-1].End() == disk.Offset {
			found[n-1].Length += disk.Length
			continue
		}
		l.disk[i] = append(found, disk)
	}
	return len(hit) > 0
}

// hit finds the parts that a range of the file touches.
func (l *locator) hit(file qcow2.Range) (hit []int) {
	lo, hi := 0, len(l.parts)
	for lo < hi { // the first that ends behind the start of file
		if mid := (lo + hi) / 2; l.parts[mid].End() <= file.Offset {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	for ; lo < len(l.parts) && l.parts[lo].Offset < file.End(); lo++ {
		hit = append(hit, lo)
	}
	return hit
}
