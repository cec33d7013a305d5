package qcow2

// Entries of L1 and L2 tables (qcow2 specification, "Cluster mapping").
const (
	entryCopied     = 1 << 63 // the cluster's refcount is one
	entryCompressed = 1 << 62 // the rest is as compressedEntry says
	entryZero       = 1       // reads as zeros, without a host cluster

	// offsetMask is where in an entry the offset of a cluster stands.
	offsetMask = 0x00fffffffffffe00
)

// ZeroEntry is the L2 entry of a zero cluster, without a host cluster.
const ZeroEntry uint64 = entryZero

// CopiedEntry is the L1 entry of a table, or the L2 entry of a cluster that is not
// compressed, at a host offset, whose refcount is one.
func CopiedEntry(host int64) uint64 { return uint64(host) | entryCopied }

// IsCopied tells whether an entry says that the refcount of what it points to is one.
func IsCopied(entry uint64) bool { return entry&entryCopied != 0 }

// CompressedEntry is the L2 entry of a frame of so many bytes at a host offset.
func (h Header) CompressedEntry(host int64, length int) uint64 {
	return compressedEntry(host, length, h.ClusterSize)
}

// Range is a run of bytes, of a file or of a disk.
type Range struct {
	Offset int64 `json:"offset"` // bytes
	Length int64 `json:"length"` // bytes
}

// End is the offset of the first byte behind the range.
func (a Range) End() int64 { return a.Offset + a.Length }

// TableOffset is where in the file the L2 table of an L1 entry lies, in bytes; 0
// if there is none.
func TableOffset(l1Entry uint64) int64 { return int64(l1Entry & offsetMask) }

// EntrySize is that of an L2 entry, in bytes.
func (h Header) EntrySize() int {
	if h.Incompatible&IncompatibleExtendedL2 != 0 {
		return 16
	}
	return 8
}

// TableCovers is how much of the disk one L2 table describes, in bytes.
func (h Header) TableCovers() int64 {
	return int64(h.ClusterSize/h.EntrySize()) * int64(h.ClusterSize)
}

// Tables is how many L2 tables, and so L1 entries, the virtual size takes.
func (h Header) Tables() int64 {
	n := h.VirtualSize / h.TableCovers()
	if h.VirtualSize%h.TableCovers() != 0 {
		n++
	}
	return n
}

// IsCompressed tells whether an L2 entry is that of a compressed cluster.
func IsCompressed(l2Entry uint64) bool { return l2Entry&entryCompressed != 0 }

// IsZero tells whether an L2 entry is that of a zero cluster. It may keep a host
// cluster, whose content does not count. (Extended entries have no such bit.)
func IsZero(l2Entry uint64) bool { return l2Entry&(entryCompressed|entryZero) == entryZero }

// HasData tells whether an L2 entry is that of a cluster with data. (Extended entries
// say so of each subcluster.)
func HasData(l2Entry uint64) bool {
	return IsCompressed(l2Entry) || l2Entry&offsetMask != 0 && !IsZero(l2Entry)
}

// DataOf is where in the file the data of an L2 entry lies; empty if it has none.
// (Of an extended entry, its first 8 bytes are meant.)
func (h Header) DataOf(l2Entry uint64) Range {
	if l2Entry&entryCompressed != 0 {
		bits := compressedOffsetBits(h.ClusterSize)
		offset := int64(l2Entry & (1<<bits - 1))
		sectors := int64(l2Entry&(entryCompressed-1)>>bits) + 1
		return Range{offset, sectors*sectorSize - offset%sectorSize}
	}
	offset := int64(l2Entry & offsetMask)
	if offset == 0 || l2Entry&entryZero != 0 && h.EntrySize() == 8 {
		return Range{}
	}
	return Range{offset, int64(h.ClusterSize)}
}
