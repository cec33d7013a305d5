package repository

import (
	"fmt"
	"io"

	"lukechampine.com/blake3"

	"github.com/virtbackup/virtbackup/internal/digest"
)

// Digest returns "blake3:" and the hex BLAKE3-256 of the file at path, as
// manifests hold it (b3sum prints the same digits). Memory does not grow with
// the file.
func Digest(path string) (string, error) {
	f, err := openRegular(path)
	if err != nil {
		return "", fmt.Errorf("digest: %w", err)
	}
	defer f.Close()
	h := blake3.New(hashSize, nil)
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("digest %s: %w", path, err)
	}
	return digest.Text(h.Sum(nil)), nil
}
