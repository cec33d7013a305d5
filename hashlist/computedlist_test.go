package hashlist

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Computed lists stay in memory up to the bound, and come back from there and from the
// temporary file as they were.
func TestRoomOfComputedLists(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", filepath.Join(dir, "none"))
	s := &scratch{}
	defer s.close()
	rooms := []room{reserved(t, s, maxListMemory-pieceOfList), reserved(t, s, pieceOfList)}
	if _, err := s.reserve(1); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "none")) || !strings.Contains(err.Error(), "TMPDIR") {
		t.Errorf("beyond the bound, without a directory: got %v, want its name", err)
	}
	t.Setenv("TMPDIR", dir)
	rooms = append(rooms, reserved(t, s, 3*pieceOfList), reserved(t, s, 100))
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("the temporary file has a name: %v, %v", left, err)
	}
	for i, r := range rooms {
		if _, err := r.WriteAt(bytes.Repeat([]byte{byte(i + 1)}, 100), 0); err != nil {
			t.Fatal(err)
		}
	}
	for i, r := range rooms {
		p := make([]byte, 100)
		if _, err := r.ReadAt(p, 0); err != nil || !bytes.Equal(p, bytes.Repeat([]byte{byte(i + 1)}, 100)) {
			t.Errorf("room %d: %v, %v", i, p, err)
		}
	}
}

// A computed list is the one that was written, in memory and in the temporary file, also
// where its last piece is a whole one.
func TestComputedList(t *testing.T) {
	const piece = pieceOfList / hashSize * RangeLength
	for _, length := range []int64{RangeLength / 2, piece - RangeLength, piece, 2*piece - RangeLength} {
		image, _ := imageOf(t, length, RangeLength)
		written, err := os.ReadFile(image.hashes)
		if err != nil {
			t.Fatal(err)
		}
		for _, taken := range []int64{0, maxListMemory} {
			shared := NewReaders(context.Background(), ReadOptions{Warn: func(place string) { t.Error(place) }})
			shared.scratch.memory = taken
			list, err := image.open(shared).computeList()
			if err != nil {
				t.Fatalf("%d bytes: %v", length, err)
			}
			if inMemory := shared.scratch.file == nil; inMemory != (taken == 0) {
				t.Errorf("%d bytes of memory are taken, and the list is in memory: %v", taken, inMemory)
			}
			sums, err := list.sums(nil, 0, list.ranges())
			if want := written[hashesHeaderSize:list.hashesSize()]; err != nil || !bytes.Equal(sums, want) {
				t.Errorf("%d bytes: %v, or the list is another", length, err)
			}
			shared.Close()
		}
	}
}

func reserved(t *testing.T, s *scratch, n int64) room {
	t.Helper()
	r, err := s.reserve(n)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
