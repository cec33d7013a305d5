package hashlist

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
)

// File is a file of which parts are read.
type File struct {
	Name string // for messages
	io.ReaderAt
}

// forget makes the next read of a part of a file ask the storage, where it is read through a
// cache (directio.Reader).
func (f File) forget(at Range) {
	if cached, ok := f.ReaderAt.(interface{ Forget(offset, length int64) }); ok {
		cached.Forget(at.Offset, at.Length)
	}
}

// ReadOptions say how images are read. Callbacks are called from several goroutines.
type ReadOptions struct {
	// Warn, if set, is called with a message for what was read wrong once, and for hash
	// lists that are damaged.
	Warn func(message string)
	// Progress, if set, is called after each piece of a file that was read: a reader of
	// few bytes may have to read a whole image, because its list is damaged.
	Progress func()
	// Cached lets the kernel keep what was read of the files, which are opened for the readers:
	// parts of them are read repeatedly.
	Cached bool
}

// Readers are those of several images, as of a chain, that share memory: maxCached bytes
// of ranges and maxListMemory bytes of computed lists, whatever their number.
type Readers struct {
	ctx      context.Context // ends what reads a whole image or list
	warn     func(string)
	progress func() // called after each read
	cache    *rangeCache
	scratch  *scratch

	misreads atomic.Int64
}

// NewReaders returns readers of no images yet. Cancelling ctx stops those that read a whole
// image or list. The caller closes them when nobody reads any more.
func NewReaders(ctx context.Context, o ReadOptions) *Readers {
	s := &Readers{ctx: ctx, warn: o.Warn, progress: o.Progress, cache: newRangeCache(), scratch: &scratch{}}
	if s.warn == nil {
		s.warn = func(string) {}
	}
	if s.progress == nil {
		s.progress = func() {}
	}
	return s
}

// Close releases what the readers share, a temporary file if there is one. The files of
// images and lists are the caller's.
func (s *Readers) Close() { s.scratch.close() }

// readFile fills p from a file, less of it where the file ends.
func (s *Readers) readFile(f File, p []byte, off int64) (n int, err error) {
	if n, err = f.ReadAt(p, off); err == io.EOF {
		err = nil
	}
	if err == nil {
		s.progress()
	}
	return n, err
}

// maxMisreads bounds the messages: a failing cable causes more than anybody reads.
const maxMisreads = 20

// misread reports a place that was read wrong once.
func (s *Readers) misread(place string) {
	switch n := s.misreads.Add(1); {
	case n <= maxMisreads:
		s.warn(place)
	case n == maxMisreads+1:
		s.warn("more was read wrong once, and right when it was read again; it is not listed")
	}
}

// readTwice is the message for what was wrong only once.
const readTwice = "differed from its hash when it was read first, and was right when read again: memory, a cable, a controller or the network spoils data"

func misreadOf(file string, place Range) string {
	return fmt.Sprintf("%s: %d bytes at offset %d: %s", file, place.Length, place.Offset, readTwice)
}
