package localfile

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/virtbackup/virtbackup/internal/digest"
)

func TestDigest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for content, want := range map[string]string{
		// The empty input of the BLAKE3 test vectors.
		"":    "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
		"abc": digest.Of([]byte("abc")),
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := Digest(path); err != nil || got != want {
			t.Errorf("%q: got %s, %v, want %s", content, got, err, want)
		}
	}
}
