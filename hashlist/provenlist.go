package hashlist

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/internal/localfile"
)

// ErrListUnusable says that a hash list on disk is not the one that was written. The image
// may be sound: a Reader computes another list from it.
var ErrListUnusable = errors.New("the hash list is damaged")

// provenList reads the hash list of an image in pieces, each proven by the digest
// of the whole list before it is used.
type provenList struct {
	layout
	shared *Readers
	digest string
	tree   listTree // nil where the list is one piece, whose hash is the digest
	read   func(p []byte, offset int64) (int, error)
	// misread is called with a piece that was read wrong once.
	misread func(Range)
	// forget makes the next read of a part ask the storage.
	forget func(Range)
}

func (l *provenList) rangeLength(index int64) int64 {
	return min(pieceOfList, l.hashesSize()-index*pieceOfList)
}

// readRange reads a piece of the list; see ranged. It is read once more where it
// is not what was written. Then the error is ErrListUnusable, or says why the list
// could not be read.
func (l *provenList) readRange(index int64, buf []byte) error {
	for try := range 2 {
		n, err := l.read(buf, index*pieceOfList)
		if err != nil {
			return listError(err)
		}
		if want := l.rangeLength(index); int64(n) >= want && l.proves(index, buf[:want]) {
			if try > 0 {
				l.misread(Range{Offset: index * pieceOfList, Length: want})
			}
			return nil
		}
		l.forget(Range{Offset: index * pieceOfList, Length: l.rangeLength(index)})
	}
	return ErrListUnusable
}

func (l *provenList) proves(index int64, piece []byte) bool {
	if l.tree == nil {
		sum := hashRange(piece)
		return digest.Text(sum[:]) == l.digest
	}
	return chainingValue(piece, index) == l.tree[index]
}

// listError is why a list cannot be read: it is unusable, unless the error says nothing of
// the list.
func listError(err error) error {
	if localfile.CannotCheck(err) || errors.Is(err, os.ErrClosed) {
		return err
	}
	return fmt.Errorf("%w: %s", ErrListUnusable, localfile.Reason(err))
}

// sums appends the hashes of n ranges from the first on.
func (l *provenList) sums(to []byte, first, n int64) ([]byte, error) {
	for at, end := l.hashOffset(first*l.unit), l.hashOffset((first+n)*l.unit); at < end; {
		c, err := l.shared.cache.get(l, at/pieceOfList)
		if err != nil {
			return nil, err
		}
		piece := c.data[at%pieceOfList:]
		piece = piece[:min(int64(len(piece)), end-at)]
		to = append(to, piece...)
		l.shared.cache.put(c)
		at += int64(len(piece))
	}
	return to, nil
}

// openList finds out how the pieces of the list on disk are proven: by the tree
// behind its hashes or, where it has none that is right, by reading all of it.
func (l *provenList) openList() error {
	if l.pieces() == 1 {
		return nil
	}
	if l.readTree() {
		return nil
	}
	for try := range 2 { // a list that is read wrong is read again
		tree, err := l.scan()
		if err != nil {
			return listError(err)
		}
		if l.accept(tree) {
			if try > 0 {
				l.misread(Range{Length: l.hashesSize()})
			}
			return nil
		}
		l.forget(Range{Length: l.hashesSize()})
	}
	return ErrListUnusable
}

// readTree reads the tree behind the hashes, once more where it is not right.
func (l *provenList) readTree() bool {
	place := Range{Offset: l.hashesSize(), Length: l.treeSize()}
	if place.Length == 0 {
		return false
	}
	p := make([]byte, place.Length)
	for try := range 2 {
		n, err := l.read(p, place.Offset)
		if err != nil || n < len(p) {
			return false
		}
		if l.accept(decodeTree(p)) {
			if try > 0 {
				l.misread(place)
			}
			return true
		}
		l.forget(place)
	}
	return false
}

func (l *provenList) accept(tree listTree) bool {
	root := tree.root()
	if digest.Text(root[:]) != l.digest {
		return false
	}
	l.tree = tree
	return true
}

// scan reads the whole list.
func (l *provenList) scan() (listTree, error) {
	var tree listTree
	buf := make([]byte, pieceOfList)
	for i := range l.pieces() {
		if err := l.shared.ctx.Err(); err != nil {
			return nil, context.Cause(l.shared.ctx)
		}
		piece := buf[:l.rangeLength(i)]
		n, err := l.read(piece, i*pieceOfList)
		if err == nil && n < len(piece) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
		tree.add(piece)
	}
	return tree, nil
}
