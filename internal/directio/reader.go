package directio

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// alignment of offsets and of memory that every file system takes with O_DIRECT.
const alignment = 4096

// Reader reads a file once in large pieces, past the page cache: what it sees is
// what the disk holds, and the host's memory stays with the guests. Where
// O_DIRECT does not work it reads through the page cache and empties it behind.
// It is safe for concurrent use.
type Reader struct {
	file   *os.File
	direct atomic.Bool
	cached bool
}

// OnRead, if it is set, is called with what a Reader has read at an offset of a
// file, before the caller sees it. Tests make storage return other bytes with it;
// nothing else sets it.
var OnRead atomic.Pointer[func(name string, offset int64, p []byte)]

// NewReader makes a Reader of a file. The file stays the caller's, who closes it.
func NewReader(file *os.File) (*Reader, error) {
	r := &Reader{file: file}
	err := setDirect(file, true)
	if err != nil && !errors.Is(err, unix.EINVAL) {
		return nil, err
	}
	r.direct.Store(err == nil)
	return r, nil
}

// NewCachedReader makes a Reader for who reads the same parts of a file repeatedly: it
// reads through the page cache, and leaves there what was read.
func NewCachedReader(file *os.File) *Reader { return &Reader{file: file, cached: true} }

// ReadPiece reads len(p) bytes at offset, fewer only at the end of the file,
// which is not an error. offset is a multiple of 4096 and p is from Buffer.
func (r *Reader) ReadPiece(p []byte, offset int64) (int, error) {
	n, err := r.readPiece(p, offset)
	spoil(r.file, offset, p[:n])
	return n, err
}

// spoil calls what tests have set.
func spoil(file *os.File, offset int64, p []byte) {
	if f := OnRead.Load(); f != nil {
		(*f)(file.Name(), offset, p)
	}
}

func (r *Reader) readPiece(p []byte, offset int64) (int, error) {
	wasDirect := r.direct.Load()
	n, err := r.file.ReadAt(p, offset)
	// Some file systems accept the flag and refuse the read; and behind an end
	// of the file that is not aligned, a second read refuses its offset.
	if wasDirect && errors.Is(err, unix.EINVAL) {
		if n, done := r.atEnd(n, offset); done {
			return n, nil
		}
		if err := setDirect(r.file, false); err != nil {
			return 0, err
		}
		r.direct.Store(false)
		n, err = r.file.ReadAt(p, offset)
	}
	if err == io.EOF {
		err = nil
	}
	return n, err
}

// atEnd tells whether a read got everything up to the end of the file.
func (r *Reader) atEnd(n int, offset int64) (int, bool) {
	info, err := r.file.Stat()
	return n, n > 0 && err == nil && offset+int64(n) == info.Size()
}

// ReadAt is that of io.ReaderAt. What O_DIRECT would not take goes through memory
// of its own, with what is around it; what is read is not left in the page cache.
func (r *Reader) ReadAt(p []byte, offset int64) (int, error) {
	if len(p) == 0 || offset < 0 {
		return r.file.ReadAt(p, offset)
	}
	if r.cached {
		n, err := r.file.ReadAt(p, offset)
		spoil(r.file, offset, p[:n])
		return n, err
	}
	start := offset &^ (alignment - 1)
	length := (offset+int64(len(p))+alignment-1)&^(alignment-1) - start
	buf := p
	if start != offset || length != int64(len(p)) || uintptr(unsafe.Pointer(&p[0]))%alignment != 0 {
		buf = Buffer(int(length))
	}
	n, err := r.ReadPiece(buf, start)
	if err != nil {
		return 0, err
	}
	r.Forget(start, length)
	n = max(0, min(n-int(offset-start), len(p)))
	if &buf[0] != &p[0] {
		copy(p, buf[offset-start:][:n])
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// largestFolio is what the page cache keeps or forgets as a whole at most, where pages have 4 KiB: a
// huge page (MAX_PAGECACHE_ORDER in Linux's include/linux/pagemap.h).
const largestFolio = 2 << 20

// Forget empties the page cache of a part of the file: the next read asks the storage. Of a cached
// reader it is more than the part, since the kernel keeps folios, of one page or many, of which it is
// told to forget a part (posix_fadvise(2), mapping_try_invalidate in Linux's mm/truncate.c).
func (r *Reader) Forget(offset, length int64) {
	if r.direct.Load() {
		return
	}
	end := offset + length
	if r.cached {
		offset, end = offset&^(largestFolio-1), (end+largestFolio-1)&^(largestFolio-1)
	}
	_ = unix.Fadvise(int(r.file.Fd()), offset, end-offset, unix.FADV_DONTNEED)
}

// Buffer returns memory of n bytes, a multiple of 4096, that O_DIRECT takes.
func Buffer(n int) []byte {
	b := make([]byte, n+alignment)
	skip := -int(uintptr(unsafe.Pointer(&b[0]))) & (alignment - 1)
	return b[skip : skip+n : skip+n]
}
