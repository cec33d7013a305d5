package hashlist

import (
	"encoding/binary"

	"lukechampine.com/blake3/guts"
)

// pieceOfList is how much of a hash list is read and proven at once: 64 KiB, the
// hashes of 128 MiB of image (of 2 GiB in lists of format 1).
const pieceOfList = 64 << 10

// listTree proves pieces of a hash list. The digest of the list
// is a BLAKE3 hash, which is the root of a tree: the chaining values of all
// pieces (BLAKE3 specification, 2.1) are proven by the digest, since they lead to
// it, and each piece by its chaining value. So 64 KiB of a list of 512 MiB are
// proven by the 256 KiB of a tree. New lists have it behind their hashes; of
// others it is computed from the list.
type listTree [][8]uint32

// add appends the next piece; all but the last are pieceOfList long.
func (t *listTree) add(piece []byte) {
	*t = append(*t, chainingValue(piece, int64(len(*t))))
}

func chainingValue(piece []byte, index int64) [8]uint32 {
	return guts.ChainingValue(subtree(piece, uint64(index)*pieceOfList/guts.ChunkSize))
}

// root is the digest of the list; the tree has two pieces or more.
func (t listTree) root() [hashSize]byte {
	left := leftPart(len(t))
	return rootHash(parentNode(t[:left].top(), t[left:].top()))
}

func (t listTree) top() [8]uint32 {
	if len(t) == 1 {
		return t[0]
	}
	left := leftPart(len(t))
	return guts.ChainingValue(parentNode(t[:left].top(), t[left:].top()))
}

// encode is how a tree is stored: each chaining value as BLAKE3 has it in bytes.
func (t listTree) encode() []byte {
	var p []byte
	for _, value := range t {
		for _, word := range value {
			p = binary.LittleEndian.AppendUint32(p, word)
		}
	}
	return p
}

func decodeTree(p []byte) listTree {
	t := make(listTree, len(p)/hashSize)
	for i := range t {
		for k := range t[i] {
			t[i][k] = binary.LittleEndian.Uint32(p[i*hashSize+4*k:])
		}
	}
	return t
}
