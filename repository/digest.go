package repository

import (
	"encoding/hex"
	"strings"

	"lukechampine.com/blake3"
)

const digestPrefix = "blake3:"

func digestBytes(data []byte) string {
	sum := blake3.Sum256(data)
	return formatDigest(sum[:])
}

func formatDigest(sum []byte) string { return digestPrefix + hex.EncodeToString(sum) }

func validDigest(s string) bool {
	digits, ok := strings.CutPrefix(s, digestPrefix)
	if !ok || len(digits) != 64 || strings.ToLower(digits) != digits {
		return false
	}
	_, err := hex.DecodeString(digits)
	return err == nil
}
