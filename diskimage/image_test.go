package diskimage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"github.com/zeebo/blake3"

	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
)

// pageAligned returns n bytes that O_DIRECT takes, filled from seed.
func pageAligned(n int, seed uint64) []byte {
	buf := make([]byte, n+4096)
	skip := (4096 - int(uintptr(unsafe.Pointer(&buf[0]))%4096)) % 4096
	buf = buf[skip : skip+n : skip+n]
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	rand.NewChaCha8(key).Read(buf)
	return buf
}

func newImage(t testing.TB, mode directio.Mode) (*Image, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vda")
	im, err := Create(path, mode)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { im.Close() })
	return im, path
}

// damagedRanges compares an image with its hash list, by docs/format.md.
func damagedRanges(t testing.TB, path string) []int64 {
	t.Helper()
	list, err := os.ReadFile(path + manifest.HashesSuffix)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path + manifest.ImageSuffix)
	if err != nil {
		t.Fatal(err)
	}
	unit := int(binary.LittleEndian.Uint64(list[16:]))
	if length := binary.LittleEndian.Uint64(list[24:]); uint64(len(data)) != length || unit != 65536 {
		t.Fatalf("image has %d bytes, the list says %d; ranges of %d bytes", len(data), length, unit)
	}
	var damaged []int64
	for at := 0; at < len(data); at += unit {
		if blake3.Sum256(data[at:min(at+unit, len(data))]) != [32]byte(list[32+at/unit*32:]) {
			damaged = append(damaged, int64(at))
		}
	}
	return damaged
}

func TestImageConcurrentWritesInAnyOrder(t *testing.T) {
	for name, mode := range map[string]directio.Mode{"auto": directio.Auto, "never": directio.Never} {
		t.Run(name, func(t *testing.T) {
			im, path := newImage(t, mode)
			if mode == directio.Never && im.Direct() {
				t.Error("direct although never")
			}
			const ranges = 40 + 8
			want := pageAligned((ranges-1)*hashlist.RangeLength+4096, 7)
			var wg sync.WaitGroup
			for w := range 4 {
				wg.Go(func() {
					for i := ranges - 1 - w; i >= 0; i -= 4 {
						off := i * hashlist.RangeLength
						if _, err := im.WriteAt(want[off:min(off+hashlist.RangeLength, len(want))], int64(off)); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			if err := im.Sync(); err != nil {
				t.Error(err)
			}
			digest, size, err := im.Finish()
			if err != nil {
				t.Fatal(err)
			}
			if size != int64(len(want)) {
				t.Errorf("size %d, want %d", size, len(want))
			}
			if d, err := localfile.Digest(path + manifest.HashesSuffix); err != nil || d != digest {
				t.Errorf("digest of the list %s, %v, Finish said %s", d, err, digest)
			}
			if info, err := os.Stat(path + manifest.HashesSuffix); err != nil || info.Size() != hashlist.FileSize(size) {
				t.Errorf("the hash list of %d bytes is not %d long: %+v, %v", size, hashlist.FileSize(size), info, err)
			}
			got, err := os.ReadFile(path + manifest.ImageSuffix)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("image differs from what was written (%v)", err)
			}
			if damaged := damagedRanges(t, path); damaged != nil {
				t.Errorf("a whole image has damage at %d", damaged)
			}
		})
	}
}

func TestFlippedByteIsSeenWithItsOffset(t *testing.T) {
	im, path := newImage(t, directio.Auto)
	data := pageAligned(3*hashlist.RangeLength+4096, 3)
	if _, err := im.WriteAt(data, 0); err != nil { // several ranges in one write
		t.Fatal(err)
	}
	if _, _, err := im.Finish(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path+manifest.ImageSuffix, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, at := range []int64{0, hashlist.RangeLength - 1, hashlist.RangeLength, 2*hashlist.RangeLength + 12345, 3*hashlist.RangeLength + 4095} {
		flip := []byte{data[at] ^ 0x10}
		if _, err := f.WriteAt(flip, at); err != nil {
			t.Fatal(err)
		}
		want := at / hashlist.RangeLength * hashlist.RangeLength
		if damaged := damagedRanges(t, path); len(damaged) != 1 || damaged[0] != want {
			t.Errorf("byte %d flipped: damage at %d, want %d", at, damaged, want)
		}
		if _, err := f.WriteAt(data[at:at+1], at); err != nil {
			t.Fatal(err)
		}
	}
}

func TestImageRewriteReplacesTheHash(t *testing.T) {
	im, path := newImage(t, directio.Auto)
	for _, w := range []struct {
		off    int64
		length int
	}{{0, hashlist.RangeLength}, {hashlist.RangeLength, 512 * 3}, {hashlist.RangeLength, hashlist.RangeLength}, {2 * hashlist.RangeLength, 4096}, {0, hashlist.RangeLength}} {
		data := pageAligned(w.length, uint64(w.off)+uint64(w.length))
		if _, err := im.WriteAt(data, w.off); err != nil { // auto falls back where 512 bytes are too few
			t.Fatal(err)
		}
		// Now the old data is in the page cache when the range is written again.
		if got := make([]byte, w.length); !readsBack(t, im, got, w.off) || !bytes.Equal(got, data) {
			t.Errorf("read back at %d something else than was written", w.off)
		}
	}
	got := make([]byte, 100)
	if _, err := im.ReadAt(got, hashlist.RangeLength+77); err != nil {
		t.Fatal(err)
	}
	if want := pageAligned(hashlist.RangeLength, 2*hashlist.RangeLength)[77:177]; !bytes.Equal(got, want) {
		t.Error("read back something else than was written last")
	}
	if _, _, err := im.Finish(); err != nil {
		t.Fatal(err)
	}
	if damaged := damagedRanges(t, path); damaged != nil {
		t.Errorf("damage at %d", damaged)
	}
}

func readsBack(t *testing.T, im *Image, p []byte, off int64) bool {
	t.Helper()
	_, err := im.ReadAt(p, off)
	if err != nil {
		t.Error(err)
	}
	return err == nil
}

func TestImageRefusesWritesThatAreNotWholeRanges(t *testing.T) {
	im, _ := newImage(t, directio.Auto)
	for _, w := range []struct {
		off    int64
		length int
	}{{4096, 4096}, {-hashlist.RangeLength, 4096}, {0, 100}, {0, 0}, {hashlist.MaxImage, 4096}} {
		if _, err := im.WriteAt(make([]byte, w.length), w.off); err == nil {
			t.Errorf("%d bytes at %d were accepted", w.length, w.off)
		}
	}
}

func TestFinishRefusesWhatIsNotCovered(t *testing.T) {
	tests := map[string]struct {
		writes [][2]int64 // offset, length
		want   string
	}{
		"range missing in the middle": {[][2]int64{{0, hashlist.RangeLength}, {2 * hashlist.RangeLength, hashlist.RangeLength}}, "range at offset 65536 was never written"},
		"first range missing":         {[][2]int64{{hashlist.RangeLength, hashlist.RangeLength}}, "range at offset 0 was never written"},
		"short range in the middle":   {[][2]int64{{0, 4096}, {hashlist.RangeLength, hashlist.RangeLength}}, "offset 0 was written in part"},
		"last range cut down later":   {[][2]int64{{0, hashlist.RangeLength}, {0, 4096}}, "offset 0 was written in part"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			im, _ := newImage(t, directio.Auto)
			for _, w := range tt.writes {
				if _, err := im.WriteAt(pageAligned(int(w[1]), 1), w[0]); err != nil {
					t.Fatal(err)
				}
			}
			if _, _, err := im.Finish(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestEmptyImage(t *testing.T) {
	im, path := newImage(t, directio.Auto)
	if _, size, err := im.Finish(); err != nil || size != 0 {
		t.Fatalf("size %d, %v", size, err)
	}
	if damaged := damagedRanges(t, path); damaged != nil {
		t.Errorf("damage at %d", damaged)
	}
	if _, err := im.WriteAt(pageAligned(512, 1), 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("write after Finish: %v", err)
	}
	if _, _, err := im.Finish(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("second Finish: %v", err)
	}
}

func BenchmarkImage(b *testing.B) {
	for name, mode := range map[string]directio.Mode{"direct": directio.Auto, "buffered": directio.Never} {
		b.Run(name, func(b *testing.B) {
			im, _ := newImage(b, mode)
			bufs := make(chan []byte, 4)
			for i := range cap(bufs) {
				bufs <- pageAligned(hashlist.SegmentRanges*hashlist.RangeLength, uint64(i))
			}
			b.SetBytes(hashlist.SegmentRanges * hashlist.RangeLength)
			b.ResetTimer()
			var wg sync.WaitGroup
			for i := range int64(b.N) {
				buf := <-bufs
				wg.Go(func() {
					if _, err := im.WriteAt(buf, i*hashlist.SegmentRanges*hashlist.RangeLength); err != nil {
						b.Error(err)
					}
					bufs <- buf
				})
			}
			wg.Wait()
			if _, _, err := im.Finish(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

func TestImageErrorsKeepTheirCause(t *testing.T) {
	im, _ := newImage(t, directio.Never)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_ = im.hashes.Close()
	im.hashes, im.list = full, hashlist.NewWriter("vda.qcow2", full)
	_, err = im.WriteAt(pageAligned(4096, 1), 0)
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "offset 0") {
		t.Errorf("got %v, want ENOSPC with the offset", err)
	}
}
