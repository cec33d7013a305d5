package repository

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// hashList builds a list for an image of this length.
func hashList(length int64) []byte {
	list := hashesHeader(length)
	for i := range rangeCount(length) {
		sum := bytes.Repeat([]byte{byte(i + 1)}, hashSize)
		binary.LittleEndian.PutUint64(sum, uint64(i))
		list = append(list, sum...)
	}
	return list
}

func TestHashListBytes(t *testing.T) {
	want := "VBHASHES" + "\x01\x00\x00\x00" + "\x01\x00\x00\x00" +
		"\x00\x00\x10\x00\x00\x00\x00\x00" + "\x15\xcd\x5b\x07\x00\x00\x00\x00"
	if got := string(hashesHeader(123456789)); got != want {
		t.Errorf("header\n%x, docs/format.md says\n%x", got, want)
	}
}

func TestHashListRanges(t *testing.T) {
	for _, length := range []int64{0, 1, RangeLength - 1, RangeLength, RangeLength + 1, 5000*RangeLength + 7} {
		path := filepath.Join(t.TempDir(), "vda.hashes")
		mustWrite(t, path, string(hashList(length)))
		l, err := OpenHashes(path)
		if err != nil {
			t.Fatalf("length %d: %v", length, err)
		}
		var covered int64
		for i := range l.Len() {
			offset, n, sum, err := l.Range(i)
			if err != nil || offset != covered || n <= 0 || binary.LittleEndian.Uint64(sum[:]) != uint64(i) {
				t.Fatalf("length %d, range %d: offset %d length %d sum %x, %v", length, i, offset, n, sum, err)
			}
			covered += n
		}
		if covered != length {
			t.Errorf("ranges cover %d of %d bytes", covered, length)
		}
		for _, i := range []int{-1, l.Len()} {
			if _, _, _, err := l.Range(i); err == nil {
				t.Errorf("range %d of %d exists", i, l.Len())
			}
		}
		if l.Len() > 0 { // backwards, out of the window
			if _, _, sum, err := l.Range(0); err != nil || binary.LittleEndian.Uint64(sum[:]) != 0 {
				t.Errorf("range 0 again: %x, %v", sum, err)
			}
		}
		l.Close()
	}
}

func TestOpenHashesRefuses(t *testing.T) {
	edit := func(at int, b byte) []byte {
		list := hashList(3 * RangeLength)
		list[at] = b
		return list
	}
	good := hashList(3 * RangeLength)
	tests := map[string]struct {
		content []byte
		want    string
	}{
		"empty":          {nil, "shorter than its header"},
		"half a header":  {good[:31], "shorter than its header"},
		"magic":          {edit(0, 'X'), "magic"},
		"version":        {edit(8, 2), "version 2"},
		"algorithm":      {edit(12, 9), "algorithm 9"},
		"range length":   {edit(16, 1), "range length"},
		"huge length":    {edit(31, 0xff), "impossible"},
		"longer image":   {edit(26, 0x40), "needs 160"},
		"truncated":      {good[:len(good)-1], "has 127 bytes"},
		"byte too many":  {append(bytes.Clone(good), 0), "has 129 bytes"},
		"never finished": {make([]byte, 128), "magic"},
	}
	for name, tt := range tests {
		path := filepath.Join(t.TempDir(), "vda.hashes")
		mustWrite(t, path, string(tt.content))
		_, err := OpenHashes(path)
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v, want %q with the path", name, err, tt.want)
		}
	}
	if _, err := OpenHashes(t.TempDir()); err == nil {
		t.Error("a directory was opened")
	}
}

func FuzzHashList(f *testing.F) {
	f.Add(hashList(0))
	f.Add(hashList(2*RangeLength + 512))
	f.Add(hashList(RangeLength)[:40])
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "h")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := OpenHashes(path)
		if err != nil {
			return
		}
		defer l.Close()
		var covered int64
		for i := range l.Len() {
			offset, n, _, err := l.Range(i)
			if err != nil || offset != covered || n <= 0 || n > RangeLength {
				t.Fatalf("range %d: offset %d length %d, %v", i, offset, n, err)
			}
			covered += n
		}
		if covered != l.ImageLength() {
			t.Errorf("ranges cover %d of %d bytes", covered, l.ImageLength())
		}
	})
}

func TestDigest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	mustWrite(t, path, "")
	// The empty input of the BLAKE3 test vectors.
	const want = "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
	if got, err := Digest(path); err != nil || got != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
	mustWrite(t, path, "abc")
	if got, err := Digest(path); err != nil || got != digestBytes([]byte("abc")) {
		t.Errorf("got %s, %v", got, err)
	}
}
