package hashlist

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/internal/directio"
)

// computePiece is read of an image at once; a multiple of every range length.
const computePiece = 1 << 20

// errNotWritten says that an image as a whole is not what was written.
var errNotWritten = errors.New("differs from what was written, and its hash list, which would tell where, is damaged too")

// computeList makes the list of an image whose stored list is unusable: the whole image is read,
// and the digest of its hashes must be that of the list.
// The hashes are kept in memory or in a temporary file, and are proven like those of
// any list when they are read from there.
func (r *Reader) computeList() (*provenList, error) {
	room, err := r.shared.scratch.reserve(r.layout.hashesSize())
	if err != nil {
		return nil, err
	}
	l := &provenList{layout: r.layout, shared: r.shared, digest: r.digest, misread: r.listMisread, forget: func(Range) {},
		read: func(p []byte, offset int64) (int, error) {
			n, err := room.ReadAt(p, offset)
			if err == io.EOF {
				err = nil
			}
			return n, err
		}}
	for try := range 2 { // what is read wrong is read again
		if try > 0 {
			r.image.forget(r.layout.whole())
		}
		w := &listWriter{layout: r.layout, room: room, piece: r.layout.header()}
		if err := r.eachPiece(w.add); err != nil {
			return nil, err
		}
		if err := w.flush(); err != nil {
			return nil, err
		}
		if digest.Text(w.digest[:]) == l.digest {
			if len(w.tree) > 1 {
				l.tree = w.tree
			}
			if try > 0 {
				r.misread(r.image, r.layout.whole())
			}
			return l, nil
		}
	}
	return nil, r.damage(r.layout.whole(), errNotWritten.Error())
}

// eachPiece reads the image from the beginning to the end.
func (r *Reader) eachPiece(do func(piece []byte) error) error {
	buf := directio.Buffer(computePiece)
	for at := int64(0); at < r.layout.length; at += computePiece {
		if r.shared.ctx.Err() != nil {
			return context.Cause(r.shared.ctx)
		}
		piece := buf[:min(computePiece, r.layout.length-at)]
		n, err := r.readFile(piece, at)
		if err == nil && n < len(piece) {
			err = r.damage(r.layout.whole(), fmt.Sprintf("missing: the file ends at byte %d of %d", at+int64(n), r.layout.length))
		}
		if err != nil {
			return err
		}
		if err := do(piece); err != nil {
			return err
		}
	}
	return nil
}

// listWriter writes a list, a piece at a time.
type listWriter struct {
	layout
	room   io.WriterAt
	at     int64 // in the room
	piece  []byte
	tree   listTree
	digest [hashSize]byte // valid after flush
}

// add takes the next of the image, whole ranges.
func (w *listWriter) add(data []byte) error {
	w.piece = appendHashes(w.piece, data, w.unit)
	for len(w.piece) > pieceOfList { // the last piece is never empty
		if err := w.write(w.piece[:pieceOfList]); err != nil {
			return err
		}
		w.piece = append(w.piece[:0], w.piece[pieceOfList:]...)
	}
	return nil
}

func (w *listWriter) write(piece []byte) error {
	if _, err := w.room.WriteAt(piece, w.at); err != nil {
		return scratchError(err)
	}
	w.tree.add(piece)
	w.at += int64(len(piece))
	return nil
}

func (w *listWriter) flush() error {
	if len(w.tree) == 0 {
		w.digest = hashRange(w.piece)
		return w.write(w.piece)
	}
	err := w.write(w.piece)
	w.digest = w.tree.root()
	return err
}

// maxListMemory bytes of computed lists are kept in memory, for each open chain: those
// of 16 GiB of images with ranges of 64 KiB. It is taken only where lists are damaged.
const maxListMemory = 8 << 20

// scratch is where computed lists are kept: in memory, and behind maxListMemory in a
// temporary file that has no name, which is made when it is needed first.
type scratch struct {
	mu     sync.Mutex
	memory int64 // bytes that were taken
	file   *os.File
	end    int64 // of the file
}

// room is for one list.
type room struct {
	io.ReaderAt
	io.WriterAt
}

// reserve takes room for n bytes.
func (s *scratch) reserve(n int64) (room, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.memory+n <= maxListMemory {
		s.memory += n
		list := make(memory, n)
		return room{bytes.NewReader(list), list}, nil
	}
	if err := s.open(); err != nil {
		return room{}, scratchError(err)
	}
	base := s.end
	s.end += n
	return room{io.NewSectionReader(s.file, base, n), io.NewOffsetWriter(s.file, base)}, nil
}

// memory is a list that is kept there.
type memory []byte

// WriteAt is that of io.WriterAt, for what lies inside.
func (m memory) WriteAt(p []byte, off int64) (int, error) { return copy(m[off:], p), nil }

func (s *scratch) open() (err error) {
	if s.file == nil {
		if s.file, err = os.CreateTemp(scratchDir(), "virtbackup-hashes-"); err == nil {
			err = os.Remove(s.file.Name())
		}
	}
	return err
}

// scratchDir is not /tmp, which may be memory: 1 TiB of image has 512 MiB of hashes.
func scratchDir() string { return cmp.Or(os.Getenv("TMPDIR"), "/var/tmp") }

// TemporaryError says that a temporary file failed, which is outside of the repository.
type TemporaryError struct {
	Dir string // TMPDIR, or /var/tmp
	Err error
}

// Error names the directory and how another one is chosen.
func (e *TemporaryError) Error() string {
	return fmt.Sprintf("the hashes of an image need a temporary file in %s (TMPDIR names another directory): %v", e.Dir, e.Err)
}

// Unwrap gives errors.Is the cause.
func (e *TemporaryError) Unwrap() error { return e.Err }

func scratchError(err error) error { return &TemporaryError{scratchDir(), err} }

func (s *scratch) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil {
		_ = s.file.Close() // it has no name
	}
}
