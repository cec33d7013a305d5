package repository

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/virtbackup/virtbackup/directio"
)

// computePiece is read of an image at once; a multiple of every range length.
const computePiece = 1 << 20

// errNotWritten says that an image is not what its manifest says, as a whole.
var errNotWritten = errors.New("differs from what was written, and its hash list, which would tell where, is damaged too")

// computeList makes the list of an image whose own is of no use: the whole image
// is read, and the digest of what its hashes are must be the one in the manifest.
// The hashes are kept in a temporary file, and are proven like those of any list
// when they are read from there.
func (r *provingReader) computeList() (*provenList, error) {
	base, err := r.chain.scratch.reserve(r.layout.hashesSize())
	if err != nil {
		return nil, err
	}
	l := &provenList{layout: r.layout, chain: r.chain, digest: r.link.Disk.Hashes, misread: r.listMisread,
		read: func(p []byte, offset int64) (int, error) { return r.chain.scratch.readAt(p, base+offset) }}
	for try := range 2 { // what is read wrong is read again
		w := &listWriter{layout: r.layout, scratch: r.chain.scratch, at: base, piece: r.layout.header()}
		if err := r.eachPiece(w.add); err != nil {
			return nil, err
		}
		if err := w.flush(); err != nil {
			return nil, err
		}
		if formatDigest(w.digest[:]) == l.digest {
			if len(w.tree) > 1 {
				l.tree = w.tree
			}
			if try > 0 {
				r.misread(r.link.Disk.Image, r.layout.whole())
			}
			return l, nil
		}
	}
	return nil, r.damage(r.layout.whole(), errNotWritten.Error())
}

// eachPiece reads the image from its beginning to its end.
func (r *provingReader) eachPiece(do func(piece []byte) error) error {
	buf := directio.Buffer(computePiece)
	for at := int64(0); at < r.layout.length; at += computePiece {
		if r.chain.ctx.Err() != nil {
			return context.Cause(r.chain.ctx)
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

// listWriter writes hashes to the temporary file, a piece of the list at a time.
type listWriter struct {
	layout
	scratch *scratch
	at      int64 // in the temporary file
	piece   []byte
	tree    listTree
	digest  [hashSize]byte // valid after flush
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
	if _, err := w.scratch.file.WriteAt(piece, w.at); err != nil {
		return fmt.Errorf("write the hashes of an image to a temporary file: %w", err)
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

// scratch is a temporary file that has no name, made when it is needed first.
type scratch struct {
	mu   sync.Mutex
	file *os.File
	end  int64
}

// reserve takes room for n bytes.
func (s *scratch) reserve(n int64) (base int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		// Not /tmp, which may be memory: 1 TiB of image has 512 MiB of hashes.
		if s.file, err = os.CreateTemp(cmp.Or(os.Getenv("TMPDIR"), "/var/tmp"), "virtbackup-hashes-"); err != nil {
			return 0, fmt.Errorf("a temporary file for the hashes of an image: %w", err)
		}
		if err := os.Remove(s.file.Name()); err != nil {
			return 0, fmt.Errorf("a temporary file for the hashes of an image: %w", err)
		}
	}
	base, s.end = s.end, s.end+n
	return base, nil
}

func (s *scratch) readAt(p []byte, offset int64) (int, error) {
	n, err := s.file.ReadAt(p, offset)
	if err == io.EOF {
		err = nil
	}
	return n, err
}

func (s *scratch) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil {
		_ = s.file.Close() // it has no name
	}
}
