package hashlist

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/virtbackup/virtbackup/internal/bitset"
	"github.com/virtbackup/virtbackup/internal/digest"
)

// EditFile is the file of a list that is changed in place.
type EditFile interface {
	ReadWriterAt
	Truncate(size int64) error
}

const (
	// maxPendingSums are kept in memory, some 8 MiB: those of 6 GiB of changes. So each
	// piece of a list is mostly written once.
	maxPendingSums = 100_000

	// editBlock is how much of a piece is written at least: a page.
	editBlock = 4096
)

// Editor makes the hash list of an image that was made from a clone of another one: the
// list is a clone of the other one's, too, and only those of its pieces are read and written
// that have the hash of a range which changed. The others are proven by the tree, which has
// their chaining values, so that the new digest follows from it. It is for one goroutine.
//
//	clone  |header, hashes| hashes | hashes |tree|
//	edited |######| hashes | hashes |#######|########|####|
type Editor struct {
	list    EditFile
	unit    int64
	before  int64    // ranges that the list had
	ranges  int64    // that the list in the file has
	tree    listTree // of the list in the file
	pending map[int64]Sum
	changed bitset.Set
	written int64
	was, is []byte // a piece as it is in the file, and as it will be
}

// OpenEditor opens the clone of a list, which stays the caller's; of is what the list was.
// ErrListUnusable is the error if it is not that list; cancelling ctx stops the reading of a
// whole list, which one without a tree takes.
func OpenEditor(ctx context.Context, list EditFile, of List) (*Editor, error) {
	shared := NewReaders(ctx, ReadOptions{})
	defer shared.Close()
	l := &provenList{layout: of.layout(), shared: shared, digest: of.Digest, misread: func(Range) {}, forget: func(Range) {},
		read: func(p []byte, off int64) (int, error) { return shared.readFile(File{ReaderAt: list}, p, off) }}
	if err := l.openList(); err != nil {
		return nil, err
	}
	e := &Editor{list: list, unit: of.Range, before: l.ranges(), ranges: l.ranges(), tree: l.tree,
		pending: map[int64]Sum{}, was: make([]byte, pieceOfList), is: make([]byte, pieceOfList)}
	if l.pieces() == 1 {
		piece := e.was[:l.rangeLength(0)]
		if err := l.readRange(0, piece); err != nil {
			return nil, err
		}
		e.tree.add(piece)
	}
	return e, nil
}

// Set gives the range of this index another hash, or one behind the last its first.
func (e *Editor) Set(index int64, sum Sum) error {
	e.pending[index] = sum
	e.changed.Add(index)
	if len(e.pending) < maxPendingSums {
		return nil
	}
	return e.flushPending()
}

// flushPending makes room in memory.
func (e *Editor) flushPending() error {
	ranges := e.ranges
	for i := range e.pending {
		ranges = max(ranges, i+1)
	}
	return e.flush(ranges, nil)
}

// Sum is the hash of a range as it is by now.
func (e *Editor) Sum(index int64) (Sum, error) {
	if sum, ok := e.pending[index]; ok {
		return sum, nil
	}
	if index < 0 || index >= e.ranges {
		return Sum{}, fmt.Errorf("hash of range %d: the list has %d", index, e.ranges)
	}
	at := hashesHeaderSize + index*hashSize
	if _, err := e.load(at / pieceOfList); err != nil {
		return Sum{}, err
	}
	return Sum(e.was[at%pieceOfList:]), nil
}

// Changed are the indices of the ranges that were set; the set is the editor's.
func (e *Editor) Changed() *bitset.Set { return &e.changed }

// Written is how many bytes of the list were written so far.
func (e *Editor) Written() int64 { return e.written }

// Finish completes the list of an image of so many bytes, and returns its digest. Every
// range behind those that the list had must have been set; those behind the end of the image
// are dropped. The file is the caller's to sync and close.
func (e *Editor) Finish(length int64) (string, error) {
	l := layout{length, e.unit}
	for i := e.before; i < l.ranges(); i++ {
		if !e.changed.Has(i) {
			return "", fmt.Errorf("the range at offset %d was never written", i*e.unit)
		}
	}
	for i := e.changed.Next(l.ranges()); i >= 0; i = e.changed.Next(i) {
		e.changed.Remove(i)
		delete(e.pending, i)
	}
	if err := e.flush(l.ranges(), l.header()); err != nil {
		return "", err
	}
	sum, err := e.seal(l)
	if err != nil {
		return "", err
	}
	return digest.Text(sum[:]), e.list.Truncate(l.fileSize())
}

// seal returns the digest of the list in the file. It writes the tree, if the list has one.
func (e *Editor) seal(l layout) (Sum, error) {
	if len(e.tree) == 1 {
		n, err := e.load(0)
		return hashRange(e.was[:n]), err
	}
	if l.treeSize() == 0 {
		return e.tree.root(), nil
	}
	return e.tree.root(), e.write(e.tree.encode(), l.hashesSize())
}

// flush puts the sums into the file and makes it a list of so many ranges: each piece that
// has one of them, is longer or shorter then, or has the header, if that is given.
func (e *Editor) flush(ranges int64, header []byte) error {
	from, to := layout{e.ranges * e.unit, e.unit}, layout{ranges * e.unit, e.unit}
	pieces := map[int64][]int64{} // indices of the sums in each
	for i := range e.pending {
		p := to.hashOffset(i*e.unit) / pieceOfList
		pieces[p] = append(pieces[p], i)
	}
	if header != nil {
		pieces[0] = append(pieces[0], -1)
	}
	for p := min(from.pieces(), to.pieces()) - 1; p < to.pieces() && from != to; p++ {
		pieces[p] = append(pieces[p], -1)
	}
	for _, p := range slices.Sorted(maps.Keys(pieces)) {
		if err := e.edit(p, pieces[p], header, to); err != nil {
			return err
		}
	}
	e.tree, e.ranges = e.tree[:to.pieces()], ranges
	clear(e.pending)
	return nil
}

// edit changes one piece, and its chaining value.
func (e *Editor) edit(p int64, indices []int64, header []byte, to layout) error {
	n, err := e.load(p)
	if err != nil {
		return err
	}
	start := p * pieceOfList
	is := e.is[:min(pieceOfList, to.hashesSize()-start)]
	clear(is[copy(is, e.was[:n]):])
	if p == 0 {
		copy(is, header)
	}
	for _, i := range indices {
		if i >= 0 {
			sum := e.pending[i]
			copy(is[to.hashOffset(i*e.unit)-start:], sum[:])
		}
	}
	if p == int64(len(e.tree)) {
		e.tree = append(e.tree, [8]uint32{})
	}
	e.tree[p] = chainingValue(is, p)
	return e.writeChanged(is, e.was[:n], start)
}

// load reads a piece of the list in the file into e.was, and returns its length: 0 behind the
// last. It is read once more where it is not what was written.
func (e *Editor) load(p int64) (int, error) {
	if p >= int64(len(e.tree)) {
		return 0, nil
	}
	n := min(pieceOfList, layout{e.ranges * e.unit, e.unit}.hashesSize()-p*pieceOfList)
	for range 2 {
		got, err := e.list.ReadAt(e.was[:n], p*pieceOfList)
		if err != nil && err != io.EOF {
			return 0, listError(err)
		}
		if int64(got) == n && chainingValue(e.was[:n], p) == e.tree[p] {
			return int(n), nil
		}
	}
	return 0, ErrListUnusable
}

// writeChanged writes the blocks of a piece that are not what is in the file.
func (e *Editor) writeChanged(is, was []byte, at int64) error {
	for i := 0; i < len(is); {
		end := i
		for end < len(is) && !sameBlock(is, was, end) {
			end = min(end+editBlock, len(is))
		}
		if end == i {
			i += editBlock
			continue
		}
		if err := e.write(is[i:end], at+int64(i)); err != nil {
			return err
		}
		i = end
	}
	return nil
}

func sameBlock(is, was []byte, at int) bool {
	end := min(at+editBlock, len(is))
	return end <= len(was) && bytes.Equal(is[at:end], was[at:end])
}

func (e *Editor) write(p []byte, at int64) error {
	if _, err := e.list.WriteAt(p, at); err != nil {
		return fmt.Errorf("write hashes: %w", err)
	}
	e.written += int64(len(p))
	return nil
}
