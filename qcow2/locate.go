package qcow2

import (
	"encoding/binary"
	"fmt"
	"io"
)

// offsetMask is where in L1 and L2 entries the offset of a cluster stands.
const offsetMask = 0x00fffffffffffe00

// Range is a run of bytes, of a file or of a disk.
type Range struct {
	Offset int64 `json:"offset"` // bytes
	Length int64 `json:"length"` // bytes
}

func (a Range) end() int64 { return a.Offset + a.Length }

// Locate says what of the guest's disk hangs on each of the given parts of an
// image file: the clusters whose data lies there, and those that are found
// through the table entries that lie there. Result i belongs to part i. The
// parts are sorted and do not overlap; what is in them is not used, as they are
// what is damaged. A nil result means that nothing of the disk lies there: free
// space, refcounts.
//
// ok is false where the header is in one of the parts, or a table that is in
// none cannot be followed: then anything may be affected. Memory is one L2 table
// and the result, which grows with the parts.
func Locate(r io.ReaderAt, h Header, parts []Range) (disk [][]Range, ok bool, err error) {
	l := &locator{r: r, h: h, parts: parts, disk: make([][]Range, len(parts))}
	if len(l.hit(Range{0, int64(h.ClusterSize)})) > 0 {
		return nil, false, nil
	}
	if err := l.walk(); err != nil {
		return nil, false, fmt.Errorf("locate in image: %w", err)
	}
	return l.disk, true, nil
}

type locator struct {
	r     io.ReaderAt
	h     Header
	parts []Range
	disk  [][]Range
	table []byte
}

// entrySize is that of an L2 entry in bytes.
func (l *locator) entrySize() int {
	if l.h.Incompatible&IncompatibleExtendedL2 != 0 {
		return 16
	}
	return 8
}

func (l *locator) walk() error {
	if l.h.ExternalData() {
		return fmt.Errorf("the data is in another file")
	}
	cs := int64(l.h.ClusterSize)
	covers := cs / int64(l.entrySize()) * cs // by one L2 table
	for i := int64(0); i < l.h.neededL1(); i++ {
		at := Range{l.h.L1Offset + i*8, 8}
		guest := Range{i * covers, covers}
		if l.lost(at, guest) {
			continue
		}
		var entry [8]byte
		if _, err := l.r.ReadAt(entry[:], at.Offset); err != nil {
			return fmt.Errorf("read L1 entry at offset %d: %w", at.Offset, err)
		}
		if table := int64(binary.BigEndian.Uint64(entry[:]) & offsetMask); table != 0 {
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
	cs, size := int64(l.h.ClusterSize), l.entrySize()
	if l.table == nil {
		l.table = make([]byte, cs)
	}
	n, err := l.r.ReadAt(l.table, table)
	if err != nil && err != io.EOF {
		return fmt.Errorf("read L2 table at offset %d: %w", table, err)
	}
	for i := 0; i < len(l.table); i += size {
		cluster := Range{guest + int64(i/size)*cs, cs}
		if cluster.Offset >= l.h.VirtualSize {
			return nil
		}
		if l.lost(Range{table + int64(i), int64(size)}, cluster) {
			continue
		}
		if i+size > n {
			return fmt.Errorf("the file ends inside the L2 table at offset %d", table)
		}
		if data := l.data(binary.BigEndian.Uint64(l.table[i:])); data.Length > 0 {
			l.lost(data, cluster)
		}
	}
	return nil
}

// data is where in the file the data of an L2 entry lies; empty if it has none.
func (l *locator) data(entry uint64) Range {
	if entry&entryCompressed != 0 {
		bits := compressedOffsetBits(l.h.ClusterSize)
		offset := int64(entry & (1<<bits - 1))
		sectors := int64(entry&(entryCompressed-1)>>bits) + 1
		return Range{offset, sectors*sectorSize - offset%sectorSize}
	}
	offset := int64(entry & offsetMask)
	if offset == 0 || entry&entryZero != 0 && l.entrySize() == 8 {
		return Range{}
	}
	return Range{offset, int64(l.h.ClusterSize)}
}

// lost notes that a range of the disk hangs on a range of the file, and tells
// whether that touches any of the parts.
func (l *locator) lost(file, disk Range) bool {
	hit := l.hit(file)
	disk.Length = min(disk.Length, l.h.VirtualSize-disk.Offset)
	if disk.Length <= 0 {
		return len(hit) > 0
	}
	for _, i := range hit {
		found := l.disk[i]
		if n := len(found); n > 0 && found[n-1].end() == disk.Offset {
			found[n-1].Length += disk.Length
			continue
		}
		l.disk[i] = append(found, disk)
	}
	return len(hit) > 0
}

// hit finds the parts that a range of the file touches.
func (l *locator) hit(file Range) (hit []int) {
	lo, hi := 0, len(l.parts)
	for lo < hi { // the first that ends behind the start of file
		if mid := (lo + hi) / 2; l.parts[mid].end() <= file.Offset {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	for ; lo < len(l.parts) && l.parts[lo].Offset < file.end(); lo++ {
		hit = append(hit, lo)
	}
	return hit
}
