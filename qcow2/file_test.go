package qcow2

import (
	"hash/maphash"
	"os"
	"sync"
	"testing"
	"unsafe"
)

const rangeSize = 1 << 20 // what a File may keep one hash of

var hashSeed = maphash.MakeSeed()

// checkedFile is a file that checks the contract of File: whole
// aligned ranges from aligned memory, never two writes of a range at once, and
// hashes kept at each write that are right in the end.
type checkedFile struct {
	t    testing.TB
	file *os.File

	mu     sync.Mutex
	sums   map[int64]uint64 // by range
	short  map[int64]int    // ranges whose last write was short
	busy   map[int64]bool
	writes []write // in order of completion
	reads  int
	header bool // a write made the file look like an image
	fail   func(offset int64) error
}

type write struct {
	offset int64
	length int
}

func (f *checkedFile) WriteAt(p []byte, offset int64) (int, error) {
	if offset%rangeSize != 0 || len(p) == 0 || len(p)%pageSize != 0 {
		f.t.Errorf("write of %d bytes at offset %d: not whole ranges", len(p), offset)
	}
	if uintptr(unsafe.Pointer(&p[0]))%pageSize != 0 {
		f.t.Errorf("write of %d bytes at offset %d: memory at %p", len(p), offset, p)
	}
	f.enter(offset, len(p))
	defer f.leave(offset, len(p))
	if f.fail != nil {
		if err := f.fail(offset); err != nil {
			return 0, err
		}
	}
	f.record(p, offset)
	return f.file.WriteAt(p, offset)
}

func (f *checkedFile) ReadAt(p []byte, offset int64) (int, error) {
	if offset%pageSize != 0 || len(p)%pageSize != 0 || uintptr(unsafe.Pointer(&p[0]))%pageSize != 0 {
		f.t.Errorf("read of %d bytes at offset %d into %p: not aligned", len(p), offset, p)
	}
	f.enter(offset, len(p))
	defer f.leave(offset, len(p))
	f.mu.Lock()
	f.reads++
	f.mu.Unlock()
	return f.file.ReadAt(p, offset)
}

func (f *checkedFile) enter(offset int64, length int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for at := offset / rangeSize; at*rangeSize < offset+int64(length); at++ {
		if f.busy[at] {
			f.t.Errorf("two calls at once for the range at offset %d", at*rangeSize)
		}
		f.busy[at] = true
	}
}

func (f *checkedFile) leave(offset int64, length int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for at := offset / rangeSize; at*rangeSize < offset+int64(length); at++ {
		delete(f.busy, at)
	}
}

func (f *checkedFile) record(p []byte, offset int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes = append(f.writes, write{offset, len(p)})
	if offset == 0 && string(p[:4]) == magic {
		f.header = true
	}
	for i := 0; i < len(p); i += rangeSize {
		part := p[i:min(i+rangeSize, len(p))]
		at := offset + int64(i)
		f.sums[at/rangeSize] = maphash.Bytes(hashSeed, part)
		delete(f.short, at)
		if len(part) < rangeSize {
			f.short[at] = len(part)
		}
	}
}

// verify compares the hashes kept while writing with what is in the file.
func (f *checkedFile) verify() {
	f.t.Helper()
	data := readFile(f.t, f.file.Name())
	for at, length := range f.short {
		if int(at)+length != len(data) {
			f.t.Errorf("the range at offset %d was last written in part", at)
		}
	}
	for at := 0; at < len(data); at += rangeSize {
		sum, ok := f.sums[int64(at/rangeSize)]
		if !ok {
			f.t.Errorf("the range at offset %d was never written", at)
		} else if sum != maphash.Bytes(hashSeed, data[at:min(at+rangeSize, len(data))]) {
			f.t.Errorf("the range at offset %d has another hash than when it was written", at)
		}
	}
}
