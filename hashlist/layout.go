package hashlist

import (
	"encoding/binary"
)

const (
	hashesMagic      = "VBHASHES"
	hashesAlgorithm  = 1 // BLAKE3-256
	hashesHeaderSize = 32
	hashSize         = 32
)

// layout is how a hash list divides an image into ranges, and so where in the
// list each hash stands.
type layout struct {
	length int64 // of the image, bytes
	unit   int64 // bytes of a range; the last one may be shorter
}

// List says how the hash list of an image was written. The manifest says so, not the list
// itself, which may be damaged.
type List struct {
	Length int64  // of the image, bytes
	Range  int64  // bytes of the image that each hash covers; the last may cover fewer
	Digest string // of the list: its header and all hashes
}

func (l List) layout() layout { return layout{l.Length, l.Range} }

// Range is a part of a file, in bytes.
type Range struct{ Offset, Length int64 }

// ranges is the number of ranges.
func (l layout) ranges() int64 { return (l.length + l.unit - 1) / l.unit }

// at is the place of a range in the image.
func (l layout) at(index int64) Range {
	return Range{Offset: index * l.unit, Length: min(l.unit, l.length-index*l.unit)}
}

// hashOffset is where the hash of the range at this offset of the image stands.
func (l layout) hashOffset(offset int64) int64 {
	return hashesHeaderSize + offset/l.unit*hashSize
}

// hashesSize is the length of the header and all hashes, which the digest
// covers.
func (l layout) hashesSize() int64 { return hashesHeaderSize + hashSize*l.ranges() }

// pieces is how many pieces of the list there are; see listTree.
func (l layout) pieces() int64 { return (l.hashesSize() + pieceOfList - 1) / pieceOfList }

// treeSize is how long the tree behind the hashes is, 0 where there is none.
func (l layout) treeSize() int64 {
	if l.unit == FirstRangeLength || l.pieces() == 1 {
		return 0
	}
	return hashSize * l.pieces()
}

// fileSize is the length of the list's file.
func (l layout) fileSize() int64 { return l.hashesSize() + l.treeSize() }

// FileSize is how long the hash list of a new image is, of which the length is given
// in bytes.
func FileSize(image int64) int64 { return layout{image, RangeLength}.fileSize() }

// header is that of the list.
func (l layout) header() []byte {
	version := uint32(2)
	if l.unit == FirstRangeLength {
		version = 1
	}
	h := append(make([]byte, 0, hashesHeaderSize), hashesMagic...)
	h = binary.LittleEndian.AppendUint32(h, version)
	h = binary.LittleEndian.AppendUint32(h, hashesAlgorithm)
	h = binary.LittleEndian.AppendUint64(h, uint64(l.unit))
	return binary.LittleEndian.AppendUint64(h, uint64(l.length))
}

// whole is the image.
func (l layout) whole() Range { return Range{Length: l.length} }
