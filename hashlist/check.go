package hashlist

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"lukechampine.com/blake3"

	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/internal/panics"
)

const (
	// pieceLength is read at once, a multiple of every range length: large enough for
	// the full speed of a disk where every read waits for it.
	pieceLength = 2 << 20

	// checkReaders read and hash pieces of one image side by side, so that the
	// disk is busy while processors hash. Memory is pieceLength for each.
	checkReaders = 4

	// maxSpans bounds the places that are listed for one file. Beyond that the last of
	// them grows.
	maxSpans = 1000
)

// CheckOptions say how an image is checked. The zero value reads all of it.
type CheckOptions struct {
	// Proven are ranges that need not be read again; nil are none. They were read
	// from this image, and are what its hash list on disk says.
	Proven *ProvenRanges
	// Misread, if set, is called with each range that differed when it was read first,
	// and was right when it was read again. Calls come from several goroutines.
	Misread func(place string)
	// Progress, if set, is called with the number of bytes of every piece. Calls
	// come from several goroutines.
	Progress func(bytes int64)
	// Wait, if set, is called before a piece of so many bytes is read, from several
	// goroutines. Its error ends the check.
	Wait func(ctx context.Context, bytes int) error
}

// PieceReader reads a file once in large pieces; directio.Reader is one.
type PieceReader interface {
	// ReadPiece fills p from offset on, with less only at the end of the file, which is
	// no error. offset is a multiple of 4096, and p from directio.Buffer.
	ReadPiece(p []byte, offset int64) (int, error)
	// Forget is called with a piece that will not be read again.
	Forget(offset, length int64)
}

// ImageFile is an image to be checked.
type ImageFile struct {
	Name string // for messages
	PieceReader
	Size int64 // of the file as it is, bytes
}

// ListFile is the hash list beside it.
type ListFile struct {
	io.ReaderAt        // nil where it cannot be read
	Missing     string // why not
	Size        int64  // of the file as it is, bytes
}

// Finding is a part of an image or of its list that is not as it was written.
type Finding struct {
	Range
	What   string
	InList bool // Range is one of the list, which no reader needs
	// Unused is what was appended to the image; nothing reads it.
	Unused bool
}

// Check reads every byte of an image, but for what was proven before, and of its hash list
// once, and compares them with each other and with the list's digest. That is the digest of
// a list computed from the image, too, so that one proves the whole image without the one
// on disk, which says where damage is. A range that differs is read once more. The error
// says why there could be no check, as when ctx was cancelled.
func Check(ctx context.Context, image ImageFile, list ListFile, of List, o CheckOptions) ([]Finding, error) {
	c := newCheck(image, list, of, o)
	if err := c.read(ctx); err != nil {
		return nil, err
	}
	c.diagnose()
	return c.findings, nil
}

func newCheck(image ImageFile, list ListFile, of List, o CheckOptions) *check {
	c := &check{image: image, layout: of.layout(), digest: of.Digest, options: o, list: openList(of.layout(), list),
		computed: blake3.New(hashSize, nil), stored: blake3.New(hashSize, nil), pending: map[int64][]rangeResult{}}
	if c.options.Progress == nil {
		c.options.Progress = func(int64) {}
	}
	if c.options.Wait == nil {
		c.options.Wait = func(context.Context, int) error { return nil }
	}
	if c.options.Misread == nil {
		c.options.Misread = func(string) {}
	}
	return c
}

// check is the check of one image with its hash list.
type check struct {
	image   ImageFile
	layout  layout
	digest  string
	options CheckOptions
	list    *storedList
	part    func(index int64) bool // the ranges to be read; nil: all

	mu      sync.Mutex
	next    int64                   // piece that is compared next
	pending map[int64][]rangeResult // pieces that were read before their turn

	computed *blake3.Hasher // of the list that the image as it is would have
	stored   *blake3.Hasher // of the list on disk, with the header it should have
	differ   []span         // ranges of the image that differ from the list on disk
	failed   []span         // ranges that could not be read
	rereads  int            // ranges that were read again because they differed
	again    []byte         // page-aligned, for those

	findings []Finding
}

// errListGone says that a range was proven by a list that does not exist any more.
var errListGone = errors.New("its hash list was there, and is gone")

// rangeResult is what one range of the image holds.
type rangeResult struct {
	sum    [hashSize]byte
	proven bool // sum is what the list has
	left   bool // it was not to be read
	err    error
}

// read hashes the image with several readers and compares its ranges in order.
func (c *check) read(ctx context.Context) error {
	header := c.layout.header()
	c.computed.Write(header)
	c.stored.Write(header)
	length := c.layout.length
	if c.image.Size < length {
		length = c.image.Size &^ (c.layout.unit - 1)
	}
	pieces := (length + pieceLength - 1) / pieceLength
	var taken atomic.Int64
	group, ctx := panics.WithContext(ctx)
	for range min(checkReaders, pieces) {
		group.Go(func() error {
			buf := directio.Buffer(pieceLength)
			for {
				i := taken.Add(1) - 1
				if i >= pieces {
					return nil
				}
				if err := ctx.Err(); err != nil {
					return context.Cause(ctx)
				}
				if err := fault.Point("check piece"); err != nil {
					return err
				}
				n := min(pieceLength, length-i*pieceLength)
				if err := c.readPiece(ctx, buf, i*pieceLength, n); err != nil {
					return err
				}
				if c.part == nil { // else readPart has said what it read
					c.options.Progress(n)
				}
			}
		})
	}
	return group.Wait()
}

// readPiece reads, hashes and compares one piece. buf is for O_DIRECT, so it is
// filled beyond n where the file goes on.
func (c *check) readPiece(ctx context.Context, buf []byte, offset, n int64) error {
	results := make([]rangeResult, (n+c.layout.unit-1)/c.layout.unit)
	if c.part != nil {
		if err := c.readPart(ctx, results, buf, offset, n); err != nil {
			return err
		}
		c.takePiece(offset, results)
		return nil
	}
	missing := 0
	for i := range results {
		if results[i].proven = c.options.Proven.Has(offset/c.layout.unit + int64(i)); !results[i].proven {
			missing++
		}
	}
	if missing > 0 {
		if err := c.options.Wait(ctx, int(n)); err != nil {
			return err
		}
		c.readRanges(results, buf, offset, n)
	}
	c.takePiece(offset, results)
	return nil
}

// takePiece compares the results of pieces, as far as all before them are there.
func (c *check) takePiece(offset int64, results []rangeResult) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pending[offset/pieceLength] = results
	for {
		results, ok := c.pending[c.next]
		if !ok {
			return
		}
		delete(c.pending, c.next)
		for i, result := range results {
			c.compare(c.next*pieceLength+int64(i)*c.layout.unit, result)
		}
		c.next++
	}
}

// readRanges reads a piece, at once if it can, and hashes what is not proven.
func (c *check) readRanges(results []rangeResult, buf []byte, offset, n int64) {
	got, err := c.image.ReadPiece(buf, offset)
	for i := range results {
		at := int64(i) * c.layout.unit
		want := min(c.layout.unit, n-at)
		switch {
		case results[i].proven:
		case err == nil && int64(got) >= at+want:
			results[i].sum = hashRange(buf[at : at+want])
		default:
			results[i] = c.readRange(buf[at:min(at+c.layout.unit, int64(len(buf)))], offset+at, want)
		}
	}
	c.image.Forget(offset, n)
}

// readRange reads one range of a piece that could not be read at once.
func (c *check) readRange(buf []byte, offset, want int64) rangeResult {
	got, err := c.image.ReadPiece(buf, offset)
	switch {
	case err != nil:
		return rangeResult{err: err}
	case int64(got) < want:
		return rangeResult{err: io.ErrUnexpectedEOF}
	}
	return rangeResult{sum: hashRange(buf[:want])}
}

// compare takes the ranges of the image in order.
func (c *check) compare(offset int64, result rangeResult) {
	place := c.layout.at(offset / c.layout.unit)
	sum, ok := c.list.next()
	if result.left {
		if ok {
			c.stored.Write(sum[:])
		}
		return
	}
	if result.proven {
		result.sum = sum
		if !ok {
			result.err = errListGone
		}
	}
	if result.err == nil && ok && sum != result.sum {
		result = c.readAgain(place, sum, result)
	}
	c.computed.Write(result.sum[:])
	if ok {
		c.stored.Write(sum[:])
	}
	switch {
	case result.err != nil:
		c.failed = addSpan(c.failed, place, localfile.Reason(result.err))
	case ok && sum != result.sum:
		c.differ = addSpan(c.differ, place, "")
	}
}

// maxRereads bounds what is read a second time of an image that differs
// altogether.
const maxRereads = 1000

// readAgain reads a range that differs from the list once more.
func (c *check) readAgain(place Range, sum [hashSize]byte, first rangeResult) rangeResult {
	if c.rereads++; c.rereads > maxRereads {
		return first
	}
	if c.again == nil {
		c.again = directio.Buffer(int(c.layout.unit))
	}
	second := c.readRange(c.again, place.Offset, place.Length)
	if second.err != nil || second.sum != sum {
		return first
	}
	c.options.Misread(misreadOf(c.image.Name, place))
	return second
}
