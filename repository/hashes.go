package repository

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// RangeLength is how many bytes of an image one hash covers: 1 MiB, what one
// write of the copy carries, so that a hash is computed while its bytes are in
// the processor's cache. A list is 32 bytes per MiB, 32 MiB for 1 TiB.
const RangeLength = 1 << 20

const (
	hashesMagic      = "VBHASHES"
	hashesVersion    = 1
	hashesAlgorithm  = 1 // BLAKE3-256
	hashesHeaderSize = 32
	hashSize         = 32

	// maxImage keeps sums of offsets far from overflow: 2^62 bytes.
	maxImage = 1 << 62
)

// HashList reads the hash list of an image. It keeps a window of the list in
// memory, not the list, and is safe for concurrent use. The reader checks the
// list's form; that the list is the one that was written, its Digest against
// the manifest says.
type HashList struct {
	file   *os.File
	length int64 // of the image, bytes

	mu     sync.Mutex
	window []byte // hashes from index first on
	first  int
}

// windowHashes is how many hashes are read at once: 64 KiB, 2 GiB of image.
const windowHashes = 2048

// OpenHashes opens a hash list and holds its header against the file's size.
// The caller closes it.
func OpenHashes(path string) (*HashList, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, fmt.Errorf("open hash list: %w", err)
	}
	length, err := readHashesHeader(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open hash list %s: %w", path, err)
	}
	return &HashList{file: f, length: length}, nil
}

func readHashesHeader(f *os.File) (length int64, err error) {
	var h [hashesHeaderSize]byte
	if _, err := f.ReadAt(h[:], 0); err != nil {
		if errors.Is(err, io.EOF) {
			return 0, errors.New("shorter than its header")
		}
		return 0, err
	}
	length, err = parseHashesHeader(h)
	if err != nil {
		return 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if want := hashesHeaderSize + hashSize*rangeCount(length); info.Size() != want {
		return 0, fmt.Errorf("has %d bytes, an image of %d bytes needs %d", info.Size(), length, want)
	}
	return length, nil
}

func parseHashesHeader(h [hashesHeaderSize]byte) (length int64, err error) {
	version, algorithm := binary.LittleEndian.Uint32(h[8:]), binary.LittleEndian.Uint32(h[12:])
	rangeLength, imageLength := binary.LittleEndian.Uint64(h[16:]), binary.LittleEndian.Uint64(h[24:])
	switch {
	case string(h[:8]) != hashesMagic:
		return 0, fmt.Errorf("magic %q is not %q", h[:8], hashesMagic)
	case version != hashesVersion:
		return 0, fmt.Errorf("version %d is not %d", version, hashesVersion)
	case algorithm != hashesAlgorithm:
		return 0, fmt.Errorf("unknown hash algorithm %d", algorithm)
	case rangeLength != RangeLength:
		return 0, fmt.Errorf("range length %d is not %d", rangeLength, RangeLength)
	case imageLength > maxImage:
		return 0, fmt.Errorf("image length %d is impossible", imageLength)
	}
	return int64(imageLength), nil
}

func hashesHeader(length int64) []byte {
	h := append(make([]byte, 0, hashesHeaderSize), hashesMagic...)
	h = binary.LittleEndian.AppendUint32(h, hashesVersion)
	h = binary.LittleEndian.AppendUint32(h, hashesAlgorithm)
	h = binary.LittleEndian.AppendUint64(h, RangeLength)
	return binary.LittleEndian.AppendUint64(h, uint64(length))
}

func rangeCount(length int64) int64 {
	return length/RangeLength + min(length%RangeLength, 1)
}

// Len is the number of ranges.
func (l *HashList) Len() int { return int(rangeCount(l.length)) }

// ImageLength is the length of the image in bytes.
func (l *HashList) ImageLength() int64 { return l.length }

// Range returns the place of range i in the image, in bytes, and its
// BLAKE3-256. Only the last range may be shorter than RangeLength.
func (l *HashList) Range(i int) (offset, length int64, sum [32]byte, err error) {
	if i < 0 || i >= l.Len() {
		return 0, 0, sum, fmt.Errorf("hash list %s: no range %d of %d", l.file.Name(), i, l.Len())
	}
	offset = int64(i) * RangeLength
	length = min(RangeLength, l.length-offset)
	l.mu.Lock()
	defer l.mu.Unlock()
	if i < l.first || i >= l.first+len(l.window)/hashSize {
		if err := l.load(i); err != nil {
			return 0, 0, sum, fmt.Errorf("read hash %d of %s: %w", i, l.file.Name(), err)
		}
	}
	copy(sum[:], l.window[(i-l.first)*hashSize:])
	return offset, length, sum, nil
}

func (l *HashList) load(i int) error {
	n := min(windowHashes, l.Len()-i)
	if cap(l.window) == 0 {
		l.window = make([]byte, 0, windowHashes*hashSize)
	}
	buf := l.window[:n*hashSize]
	l.window = l.window[:0]
	if _, err := l.file.ReadAt(buf, hashOffset(int64(i)*RangeLength)); err != nil {
		return err
	}
	l.window, l.first = buf, i
	return nil
}

// Close releases the file.
func (l *HashList) Close() error { return l.file.Close() }

// hashOffset is where the hash of the range at this image offset stands.
func hashOffset(offset int64) int64 {
	return hashesHeaderSize + offset/RangeLength*hashSize
}

// appendHashes appends the hash of each range of data, which starts a range.
func appendHashes(sums, data []byte) []byte {
	for len(data) > 0 {
		n := min(len(data), RangeLength)
		sum := hashRange(data[:n])
		sums = append(sums, sum[:]...)
		data = data[n:]
	}
	return sums
}
