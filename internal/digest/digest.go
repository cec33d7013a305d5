// Package digest has the text form of BLAKE3-256 hashes that the repository's JSON files
// hold, and JSON files that carry the digest of themselves. It reads no files.
package digest

import (
	"encoding/hex"
	"strings"

	"lukechampine.com/blake3"
)

// Prefix begins every digest; 64 lower-case hex digits follow.
const Prefix = "blake3:"

// Of returns the digest of data; `b3sum` prints the same digits.
func Of(data []byte) string {
	sum := blake3.Sum256(data)
	return Text(sum[:])
}

// Text is the digest of which sum is the BLAKE3-256 hash, 32 bytes.
func Text(sum []byte) string { return Prefix + hex.EncodeToString(sum) }

// Valid tells whether s has the form of a digest.
func Valid(s string) bool {
	digits, ok := strings.CutPrefix(s, Prefix)
	if !ok || len(digits) != 64 || strings.ToLower(digits) != digits {
		return false
	}
	_, err := hex.DecodeString(digits)
	return err == nil
}
