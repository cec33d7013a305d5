package zstd

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	judge "github.com/klauspost/compress/zstd"
)

// Another library unpacks the frames, which follow one another in one buffer, to the
// clusters; each kind of data gets as small as it can.
func TestAppend(t *testing.T) {
	random := make([]byte, 64<<10)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(random)
	decoder, err := judge.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer decoder.Close()
	for level := 1; level <= MaxLevel; level++ {
		c := New(level)
		dst := []byte("before")
		for _, kind := range []struct {
			name string
			data []byte
			most int // bytes
		}{
			{"random", random, len(random) + 32},
			{"hexadecimal", fmt.Appendf(nil, "%x", random[:32<<10]), 36 << 10},
			{"repeated", bytes.Repeat(random[:5000], 14)[:64<<10], 6 << 10},
			{"a letter", bytes.Repeat([]byte("a"), 2<<20), 300},
			{"a sector", random[:512], 550},
		} {
			start := len(dst)
			out, err := c.Append(dst, kind.data)
			if err != nil || !bytes.Equal(out[:start], dst) {
				t.Fatalf("level %d, %s: %v, or what was there is gone", level, kind.name, err)
			}
			got, err := decoder.DecodeAll(out[start:], nil)
			if err != nil || !bytes.Equal(got, kind.data) {
				t.Errorf("level %d, %s: unpacks to %d bytes, %v", level, kind.name, len(got), err)
			}
			if n := len(out) - start; n > kind.most {
				t.Errorf("level %d, %s: %d bytes, want at most %d", level, kind.name, n, kind.most)
			}
			dst = out
		}
	}
}

func TestValidLevel(t *testing.T) {
	for level, want := range map[int]bool{-1: false, 0: false, 1: true, DefaultLevel: true, MaxLevel: true, MaxLevel + 1: false} {
		if err := ValidLevel(level); (err == nil) != want {
			t.Errorf("%d: %v", level, err)
		}
	}
}
