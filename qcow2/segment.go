package qcow2

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"unsafe"
)

const (
	// segmentSize is how much of the file is allocated and written at once:
	// the range that the repository keeps one hash of, and large enough that
	// an O_DIRECT write of it runs at the device's full speed. Larger clusters
	// make larger segments.
	segmentSize = 1 << 20

	// pageSize is the alignment in memory that O_DIRECT needs.
	pageSize = 4096
)

// File is where the image goes; *os.File satisfies it.
//
// The Writer keeps these rules, so that a File may write with O_DIRECT and
// keep one hash for each 1 MiB of the file:
//
//   - WriteAt gets offsets that are multiples of 1 MiB, and whole ranges of
//     1 MiB; only the last one of the file may be shorter, a multiple of the
//     cluster size. (Clusters of 2 MiB make writes of 2 MiB.)
//   - What is written lies at a multiple of 4096 bytes in memory and is a
//     multiple of 4096 bytes long.
//   - Every range of the file is written. Most are written once. A range that
//     holds L2 tables that had to leave memory may be written again, always as
//     a whole, and never by two calls at once; so may the range with the
//     header. The last write of a range counts.
//   - Calls for different ranges run concurrently.
//   - ReadAt reads back only such L2 tables, or the whole range with them, at
//     multiples of 4096, never during a write of that range.
//
// The file is empty at first. The Writer neither closes nor syncs it.
type File interface {
	io.WriterAt
	io.ReaderAt
}

// segment is a stretch of the file being filled in memory, from its start on.
type segment struct {
	offset int64  // in the file, a multiple of its length
	buf    []byte // page-aligned, the whole segment
	used   int    // bytes from the start
}

func (s *segment) room() int { return len(s.buf) - s.used }

// align leaves what is used of the segment at a whole number of clusters.
func (s *segment) align(clusterSize int) {
	end := int(clusters(int64(s.used), clusterSize)) * clusterSize
	clear(s.buf[s.used:end])
	s.used = end
}

// add copies clusters into the segment and returns their place in the file.
func (s *segment) add(p []byte) int64 {
	at := s.offset + int64(s.used)
	s.used += copy(s.buf[s.used:], p)
	return at
}

// segments hands out the segments of one file and writes them.
type segments struct {
	file File
	size int
	next atomic.Int64 // where the next segment starts: the end of what is allocated
	free sync.Pool    // of *[]byte, size bytes each, page-aligned
}

func newSegments(f File, clusterSize int) *segments {
	s := &segments{file: f, size: max(segmentSize, clusterSize)}
	s.free.New = func() any {
		buf := alignedBuffer(s.size)
		return &buf
	}
	return s
}

// reserve takes the next segment of the file; the caller must write it.
func (s *segments) reserve() int64 { return s.reserveRun(1) }

// reserveRun takes the next n segments, which follow each other in the file.
func (s *segments) reserveRun(n int64) int64 { return s.next.Add(n*int64(s.size)) - n*int64(s.size) }

// open takes the next segment of the file, with a buffer to fill it in.
func (s *segments) open() *segment { return s.at(s.reserve()) }

// at returns a buffer to fill in for the segment at an offset, which is the
// caller's.
func (s *segments) at(offset int64) *segment {
	return &segment{offset: offset, buf: *s.free.Get().(*[]byte)}
}

// start is where the segment that holds an offset begins.
func (s *segments) start(offset int64) int64 { return offset &^ int64(s.size-1) }

// write writes p, which stays the caller's, at a segment's offset.
func (s *segments) write(p []byte, offset int64) error {
	n, err := s.file.WriteAt(p, offset)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return fmt.Errorf("write %d bytes at offset %d of the qcow2 image: %w", len(p), offset, err)
	}
	return nil
}

// close writes a segment as a whole, zeros where it was not filled, and takes
// its buffer back.
func (s *segments) close(seg *segment) error {
	clear(seg.buf[seg.used:])
	if err := s.write(seg.buf, seg.offset); err != nil {
		return err
	}
	s.release(seg)
	return nil
}

func (s *segments) release(seg *segment) {
	buf := seg.buf
	seg.buf = nil
	s.free.Put(&buf)
}

// read fills p from the file. At the very end an io.EOF may come with the data.
func (s *segments) read(p []byte, offset int64) error {
	n, err := s.file.ReadAt(p, offset)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes at offset %d of the qcow2 image: %w", len(p), offset, err)
}

// alignedBuffer returns n bytes that start at a multiple of the page size.
func alignedBuffer(n int) []byte {
	buf := make([]byte, n+pageSize)
	skip := -int(uintptr(unsafe.Pointer(&buf[0]))) & (pageSize - 1)
	return buf[skip : skip+n : skip+n]
}

// aligned tells whether O_DIRECT would take p.
func aligned(p []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(p)))%pageSize == 0 && len(p)%pageSize == 0
}
