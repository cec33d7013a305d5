package repository

import (
	"lukechampine.com/blake3"
	"lukechampine.com/blake3/guts"
)

// hashRange is the BLAKE3 hash of one range of an image.
//
// Whole ranges, nearly all there are, are hashed in the caller's goroutine,
// 16 KiB at a time, which is what AVX-512 takes at once, and their subtrees are
// merged here. The library's own Sum256 starts a goroutine for each 16 KiB.
// Measured on one core (Sapphire Rapids): 4.1 GB/s, Sum256 2.9, zeebo/blake3,
// which has no AVX-512, 3.1.
func hashRange(p []byte) [hashSize]byte {
	if len(p) != RangeLength {
		return blake3.Sum256(p)
	}
	const leaf = guts.MaxSIMD * guts.ChunkSize
	var nodes [RangeLength / leaf]guts.Node
	for i := range nodes {
		nodes[i] = guts.CompressBuffer((*[leaf]byte)(p[i*leaf:]), leaf, &guts.IV, uint64(i)*guts.MaxSIMD, 0)
	}
	for n := len(nodes); n > 1; n /= 2 {
		for i := range n / 2 {
			left, right := guts.ChainingValue(nodes[2*i]), guts.ChainingValue(nodes[2*i+1])
			nodes[i] = guts.ParentNode(left, right, &guts.IV, 0)
		}
	}
	nodes[0].Flags |= guts.FlagRoot
	sum := guts.WordsToBytes(guts.CompressNode(nodes[0]))
	return [hashSize]byte(sum[:hashSize])
}
