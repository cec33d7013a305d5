package hashlist

import (
	"bytes"
	"io"

	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/internal/localfile"
)

// openList compares the header and the length of the list with what they should be, so that
// hashes are found whatever the header says.
func openList(of layout, from ListFile) *storedList {
	l := &storedList{layout: of, count: of.ranges(), file: from.ReaderAt}
	if l.file == nil {
		l.found(Range{}, from.Missing)
		return l
	}
	want := of.fileSize()
	switch size := from.Size; {
	case size < want:
		l.found(Range{Offset: size, Length: want - size}, "missing: the file ends here")
	case size > want:
		l.found(Range{Offset: want, Length: size - want}, "was appended later")
	}
	header := make([]byte, hashesHeaderSize)
	if n, _ := l.file.ReadAt(header, 0); !bytes.Equal(header[:n], of.header()[:n]) {
		l.found(Range{Length: int64(n)}, "the header differs from what was written")
	}
	return l
}

// storedList is the hash list on disk, read once from front to back.
type storedList struct {
	layout
	file  io.ReaderAt // nil where there is none
	count int64       // hashes there should be
	taken int64
	buf   []byte
	spans []span // what is wrong with it, apart from its hashes
}

func (l *storedList) found(at Range, what string) {
	l.spans = append(l.spans, span{at, what})
}

// next returns the hashes in order, and false behind the last or where the list
// cannot be read.
func (l *storedList) next() (sum [hashSize]byte, ok bool) {
	if l.file == nil || l.taken == l.count {
		return sum, false
	}
	if len(l.buf) < hashSize {
		if l.buf = l.load(); len(l.buf) < hashSize {
			l.count = l.taken // the rest is gone
			return sum, false
		}
	}
	l.taken++
	copy(sum[:], l.buf)
	l.buf = l.buf[hashSize:]
	return sum, true
}

func (l *storedList) load() []byte {
	buf := make([]byte, hashSize*min(pieceOfList/hashSize, l.count-l.taken))
	at := hashesHeaderSize + l.taken*hashSize
	n, err := l.file.ReadAt(buf, at)
	if err != nil && err != io.EOF {
		l.found(Range{Offset: at, Length: int64(len(buf))}, localfile.Reason(err))
	}
	return buf[:n]
}

// checkTree compares the tree behind the hashes with their digest, which is the
// manifest's.
func (l *storedList) checkTree(want string) {
	if l.treeSize() == 0 || l.file == nil {
		return
	}
	p := make([]byte, l.treeSize())
	root := [hashSize]byte{}
	if _, err := l.file.ReadAt(p, l.hashesSize()); err == nil {
		root = decodeTree(p).root()
	}
	if digest.Text(root[:]) != want {
		l.found(Range{Offset: l.hashesSize(), Length: l.treeSize()}, "the tree of the hashes differs from what was written")
	}
}

// complete tells whether the list has the right form, whatever its hashes.
func (l *storedList) complete() bool { return l.file != nil && len(l.spans) == 0 }
