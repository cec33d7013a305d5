package hashlist

import (
	"bytes"
	"encoding/binary"
	"testing"

	zeebo "github.com/zeebo/blake3"
)

func TestHashListHeaders(t *testing.T) {
	for unit, want := range map[int64]string{
		FirstRangeLength: "VBHASHES" + "\x01\x00\x00\x00" + "\x01\x00\x00\x00" +
			"\x00\x00\x10\x00\x00\x00\x00\x00" + "\x15\xcd\x5b\x07\x00\x00\x00\x00",
		RangeLength: "VBHASHES" + "\x02\x00\x00\x00" + "\x01\x00\x00\x00" +
			"\x00\x00\x01\x00\x00\x00\x00\x00" + "\x15\xcd\x5b\x07\x00\x00\x00\x00",
	} {
		if got := string(layout{123456789, unit}.header()); got != want {
			t.Errorf("ranges of %d bytes: header\n%x, docs/format.md says\n%x", unit, got, want)
		}
	}
}

// Ranges cover the image once, and their hashes follow each other in the list.
func TestLayout(t *testing.T) {
	for _, unit := range []int64{RangeLength, FirstRangeLength} {
		for _, length := range []int64{0, 1, unit - 1, unit, unit + 1, 5000*unit + 7} {
			l := layout{length, unit}
			var covered int64
			for i := range l.ranges() {
				r := l.at(i)
				if r.Offset != covered || r.Length <= 0 || r.Length > unit || l.hashOffset(r.Offset) != hashesHeaderSize+i*hashSize {
					t.Fatalf("length %d, range %d: %+v, hash at %d", length, i, r, l.hashOffset(r.Offset))
				}
				covered += r.Length
			}
			if covered != length || l.hashesSize() != hashesHeaderSize+hashSize*l.ranges() {
				t.Errorf("ranges cover %d of %d bytes, the list has %d", covered, length, l.hashesSize())
			}
		}
	}
}

// The tree leads to what BLAKE3 makes of the whole list, whatever its length, and
// is read as it was written.
func TestListTree(t *testing.T) {
	for _, length := range []int64{pieceOfList + 32, 2 * pieceOfList, 2*pieceOfList + 1024, 3*pieceOfList - 32, 8 * pieceOfList, 11*pieceOfList + 4128} {
		list := pageAligned(int(length), uint64(length))
		var tree listTree
		for at := int64(0); at < length; at += pieceOfList {
			tree.add(list[at:min(at+pieceOfList, length)])
		}
		if got, want := tree.root(), zeebo.Sum256(list); got != want {
			t.Errorf("%d bytes: %x, want %x", length, got, want)
		}
		if p := tree.encode(); !bytes.Equal(decodeTree(p).encode(), p) || binary.LittleEndian.Uint32(p) != tree[0][0] {
			t.Errorf("%d bytes: the tree is not read as it was written", length)
		}
	}
}
