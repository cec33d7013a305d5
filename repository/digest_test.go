package repository

import (
	"path/filepath"
	"testing"

	"github.com/virtbackup/virtbackup/internal/digest"
)

func TestDigest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	mustWrite(t, path, "")
	// The empty input of the BLAKE3 test vectors.
	const want = "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
	if got, err := Digest(path); err != nil || got != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
	mustWrite(t, path, "abc")
	if got, err := Digest(path); err != nil || got != digest.Of([]byte("abc")) {
		t.Errorf("got %s, %v", got, err)
	}
}
