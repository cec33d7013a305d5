package directio

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

const piece = 1 << 20

func newFile(t testing.TB, mode Mode) (*File, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	f, err := Create(path, 0o600, mode)
	if err != nil {
		t.Fatal(err)
	}
	f.Grow()
	t.Cleanup(func() { _ = f.Close() })
	return f, path
}

// Taken is what the file system reports, except for its own metadata and delayed allocation.
func TestTakenIsWhatTheFileSystemGave(t *testing.T) {
	for _, mode := range []Mode{Auto, Never} {
		f, path := newFile(t, mode)
		check := func() {
			t.Helper()
			var s unix.Stat_t
			if err := unix.Stat(path, &s); err != nil {
				t.Fatal(err)
			}
			if given := s.Blocks * 512; f.Taken() < given-piece/8 || f.Taken() > given+piece {
				t.Errorf("mode %d: %d bytes taken, the file system says %d", mode, f.Taken(), given)
			}
		}
		for off := int64(0); off < 40*piece; off += piece {
			if _, err := f.WriteAt(pageAligned(piece, 5), off); err != nil {
				t.Fatal(err)
			}
			check()
		}
		if err := f.Truncate(3 * piece); err != nil {
			t.Fatal(err)
		}
		check()
	}
}

// A write that O_DIRECT refuses (memory that is not aligned stands for a file
// system that refuses all) makes auto fall back, and always fail.
func TestDirectFallsBackOnEINVAL(t *testing.T) {
	f, path := newFile(t, Auto)
	if !f.Direct() {
		t.Log("auto fell back on opening: the temporary directory has no O_DIRECT")
		return
	}
	odd := pageAligned(piece+4096, 5)[1 : 1+piece]
	probe, err := os.OpenFile(path, os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer probe.Close()
	if _, err := probe.WriteAt(odd, 0); !errors.Is(err, unix.EINVAL) {
		t.Logf("the file system takes any memory (%v), as tmpfs does: nothing to fall back from", err)
		return
	}
	if _, err := f.WriteAt(odd, 0); err != nil {
		t.Fatal(err)
	}
	if f.Direct() {
		t.Error("still direct")
	}
	if err := f.Truncate(piece); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, odd) {
		t.Errorf("the file differs from what was written (%v)", err)
	}
	always, _ := newFile(t, Always)
	if _, err := always.WriteAt(odd, 0); !errors.Is(err, unix.EINVAL) {
		t.Errorf("always: got %v, want EINVAL", err)
	}
}

// In the page cache fallback little of the image stays in the host's memory.
func TestBufferedWritesSpareThePageCache(t *testing.T) {
	f, path := newFile(t, Never)
	const ranges = 100
	data := pageAligned(piece, 9)
	for i := range int64(ranges) {
		if _, err := f.WriteAt(data, i*piece); err != nil {
			t.Fatal(err)
		}
	}
	resident := residentBytes(t, path, ranges*piece)
	t.Logf("%d of %d MiB are in the page cache", resident>>20, ranges)
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err == nil && fs.Type == unix.TMPFS_MAGIC {
		return // a tmpfs is in the page cache
	}
	if limit := 2 * behindRanges * piece; resident > limit {
		t.Errorf("%d bytes are in the page cache, want at most %d", resident, limit)
	}
}

func residentBytes(t *testing.T, path string, length int) int {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, length, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(m)
	page := os.Getpagesize()
	vec := make([]byte, (length+page-1)/page)
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(length), uintptr(unsafe.Pointer(&vec[0]))); errno != 0 {
		t.Fatal(errno)
	}
	n := 0
	for _, v := range vec {
		n += int(v&1) * page
	}
	return n
}

func TestErrorsKeepTheirCause(t *testing.T) {
	f, _ := newFile(t, Never)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.file.Close()
	f.file = full
	_, err = f.WriteAt(pageAligned(4096, 1), 0)
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v, want ENOSPC", err)
	}
}

func pageAligned(n int, seed uint64) []byte {
	buf := make([]byte, n+4096)
	skip := (4096 - int(uintptr(unsafe.Pointer(&buf[0]))%4096)) % 4096
	buf = buf[skip : skip+n : skip+n]
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	rand.NewChaCha8(key).Read(buf)
	return buf
}

// A file that is there is overwritten in place, and parts of it become zeros: as holes, or
// written out where the file system or the alignment asks for that.
func TestOpenAndZero(t *testing.T) {
	for _, mode := range []Mode{Auto, Never} {
		path := filepath.Join(t.TempDir(), "file")
		want := bytes.Repeat([]byte{7}, 4*piece+1000)
		if err := os.WriteFile(path, want, 0o640); err != nil {
			t.Fatal(err)
		}
		f, err := Open(path, 0, mode)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(pageAligned(piece, 9), piece); err != nil {
			t.Fatal(err)
		}
		copy(want[piece:], pageAligned(piece, 9))
		for _, part := range [][2]int64{{2 * piece, piece}, {3*piece + 512, 4096}, {4 * piece, 1000}} {
			if err := f.Zero(part[0], part[1]); err != nil {
				t.Fatal(err)
			}
			clear(want[part[0] : part[0]+part[1]])
		}
		if err := errors.Join(f.writeZeros(0, piece/2), f.Sync(), f.Close()); err != nil {
			t.Fatal(err)
		}
		clear(want[:piece/2])
		got, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("mode %d: the file is not as it should be: %v, %d bytes", mode, err, len(got))
		}
		var s unix.Stat_t
		if err := unix.Stat(path, &s); err != nil || s.Blocks*512 > 4*piece || s.Mode&0o777 != 0o640 {
			t.Errorf("mode %d: %v, %d blocks, mode %o: no hole, or the mode changed", mode, err, s.Blocks, s.Mode)
		}
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none"), 0, Auto); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
