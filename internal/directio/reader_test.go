package directio

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Any range may be asked for, whatever its alignment, with O_DIRECT and without.
func TestReadAt(t *testing.T) {
	content := make([]byte, 300_001)
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range content {
		content[i] = byte(rnd.Uint32())
	}
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	model := bytes.NewReader(content)
	for _, refused := range []bool{false, true} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		r, err := NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		if refused { // as by a file system without O_DIRECT
			if err := setDirect(f, false); err != nil {
				t.Fatal(err)
			}
			r.direct.Store(false)
		}
		for i := range 500 {
			offset, p := rnd.Int64N(320_000), Buffer(64 << 10)[:rnd.IntN(60_000)]
			switch i % 4 {
			case 0: // as O_DIRECT would have it
				offset, p = offset&^4095, p[:len(p)&^4095]
			case 1:
				offset = max(0, int64(len(content)-len(p))) // up to the very end
			}
			want := make([]byte, len(p))
			wantN, wantErr := model.ReadAt(want, offset)
			n, err := r.ReadAt(p, offset)
			// At the very end io.ReaderAt leaves it open whether that is io.EOF.
			if n != wantN || !bytes.Equal(p[:n], want[:n]) || (n < len(p)) != (err == io.EOF) || wantN < len(p) && wantErr != err {
				t.Fatalf("refused %v: %d bytes at %d: got %d, %v, want %d, %v", refused, len(p), offset, n, err, wantN, wantErr)
			}
		}
	}
	r := &Reader{}
	if _, err := r.ReadAt(make([]byte, 1), -1); err == nil {
		t.Error("no error for a negative offset")
	}
}

// A cached reader leaves what it has read in the page cache, and Forget takes it out. What tests
// spoil is spoilt for it, too.
func TestCachedReader(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	content := pageAligned(piece, 3)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err == nil {
		defer f.Close()
		err = f.Sync()
	}
	if err != nil {
		t.Fatal(err)
	}
	r := NewCachedReader(f)
	r.Forget(0, piece)
	p := make([]byte, piece-10) // of any alignment
	if n, err := r.ReadAt(p, 7); n != len(p) || err != nil || !bytes.Equal(p, content[7:7+n]) {
		t.Fatalf("%d bytes, %v", n, err)
	}
	if n := residentBytes(t, path, piece); n != piece {
		t.Errorf("%d of %d bytes are cached", n, piece)
	}
	if n, err := r.ReadAt(p, piece-5); n != 5 || err != io.EOF {
		t.Errorf("at the end: %d bytes, %v", n, err)
	}
	r.Forget(0, piece)
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		t.Fatal(err)
	}
	if n := residentBytes(t, path, piece); n != 0 && fs.Type != unix.TMPFS_MAGIC { // a tmpfs is in the page cache
		t.Errorf("%d bytes are cached still", n)
	}
	spoil := func(name string, offset int64, p []byte) {
		if name == path && offset == 0 {
			p[0] ^= 1
		}
	}
	OnRead.Store(&spoil)
	defer OnRead.Store(nil)
	if _, err := r.ReadAt(p, 0); err != nil || p[0] != content[0]^1 {
		t.Errorf("a byte is %#x, %v", p[0], err)
	}
}

// What a cached reader forgets is gone, whatever its alignment, and however large the folios are that
// the kernel has it in. It keeps those of which it is to forget a part.
func TestForgetParts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	const length = 8 * piece
	if err := os.WriteFile(path, pageAligned(length, 3), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err == nil {
		defer f.Close()
		err = f.Sync()
	}
	var fs unix.Statfs_t
	if err := errors.Join(err, unix.Statfs(path, &fs)); err != nil {
		t.Fatal(err)
	}
	r := NewCachedReader(f)
	if _, err := r.ReadAt(make([]byte, length), 0); err != nil {
		t.Fatal(err)
	}
	if n := residentBytes(t, path, length); n != length {
		t.Fatalf("%d of %d bytes are cached", n, length)
	}
	const at = 3*piece + 64<<10 + 100
	r.Forget(at, 64<<10)
	if cached := residentAt(t, path, at, 64<<10); cached > 0 && fs.Type != unix.TMPFS_MAGIC {
		t.Errorf("%d of the pages that were to be forgotten are cached", cached)
	}
}

// residentAt is how many pages of a part of a file are in the page cache.
func residentAt(t *testing.T, path string, at, length int64) (pages int) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	page := int64(os.Getpagesize())
	start := at / page * page
	size := at + length - start
	m, err := unix.Mmap(int(f.Fd()), start, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(m)
	in := make([]byte, (size+page-1)/page)
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(size), uintptr(unsafe.Pointer(&in[0]))); errno != 0 {
		t.Fatal(errno)
	}
	for _, b := range in {
		pages += int(b & 1)
	}
	return pages
}
