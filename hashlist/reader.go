package hashlist

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/virtbackup/virtbackup/internal/localfile"
)

// DamageError says that a part of an image is not as it was written.
type DamageError struct {
	Range        // of the image
	What  string // is wrong there
}

// Error is the place and what is wrong there.
func (e *DamageError) Error() string {
	return fmt.Sprintf("%d bytes at offset %d: %s", e.Length, e.Offset, e.What)
}

// Reader reads one image. What it returns was compared with the hash list, and the list
// with its digest. A range that differs is read once more; where it differs again, that is
// damage. It is safe for concurrent use.
type Reader struct {
	shared        *Readers
	image, stored File // the image, and the list beside it
	layout        layout
	digest        string
	proven        *ProvenRanges

	mu    sync.Mutex // held while a list is opened or computed
	list  *provenList
	wrong *DamageError // why no list can be computed, once that is known
}

// Open returns a reader of an image. The files stay the caller's, who closes them when
// nobody reads any more.
func (s *Readers) Open(image, list File, l List) *Reader {
	return &Reader{shared: s, image: image, stored: list, layout: l.layout(), digest: l.Digest, proven: newProvenRanges(l.layout())}
}

// Proven are the ranges that were read so far.
func (r *Reader) Proven() *ProvenRanges { return r.proven }

// ReadAt is that of io.ReaderAt. Whole ranges go straight into p, without a copy
// if it is page-aligned; of others the part that is asked for is taken from the
// cache. The image ends where the list says: what was appended is not proven.
// Damage is a *DamageError.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("read at a negative offset")
	}
	done := 0
	for done < len(p) && off+int64(done) < r.layout.length {
		n, err := r.readSome(p[done:], off+int64(done))
		done += n
		if err != nil {
			return done, err
		}
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// Sums appends the hashes of n ranges from the first on, as the list has them. They are
// proven, but the ranges are not read: those of damaged ranges are the hashes of what was
// written.
func (r *Reader) Sums(to []Sum, first, n int64) ([]Sum, error) {
	if first < 0 || n < 0 || first+n > r.layout.ranges() {
		return nil, fmt.Errorf("hashes of %d ranges from %d on: the image has %d", n, first, r.layout.ranges())
	}
	p, err := r.sums(nil, first, n)
	if err != nil {
		return nil, err
	}
	for ; len(p) > 0; p = p[hashSize:] {
		to = append(to, Sum(p))
	}
	return to, nil
}

// readSome reads whole ranges, or what p has of the range at off.
func (r *Reader) readSome(p []byte, off int64) (int, error) {
	unit := r.layout.unit
	if whole := min(int64(len(p)), r.layout.length-off) &^ (unit - 1); off%unit == 0 && whole > 0 {
		if err := r.readWhole(p[:whole], off); err != nil {
			return 0, err
		}
		return int(whole), nil
	}
	c, err := r.shared.cache.get(r, off/unit)
	if err != nil {
		return 0, err
	}
	defer r.shared.cache.put(c)
	return copy(p, c.data[off%unit:]), nil
}

// readWhole reads whole ranges.
func (r *Reader) readWhole(p []byte, off int64) error {
	n, err := r.readFile(p, off)
	if err != nil {
		return err
	}
	return r.prove(p, n, off)
}

// rangeLength and readRange are for the cache.
func (r *Reader) rangeLength(index int64) int64 { return r.layout.at(index).Length }

func (r *Reader) readRange(index int64, buf []byte) error {
	off := index * r.layout.unit
	n, err := r.readFile(buf, off)
	if err != nil {
		return err
	}
	return r.prove(buf[:r.rangeLength(index)], n, off)
}

// readFile fills p from the image, less of it where the file ends. What storage cannot
// read, and cannot when asked again, is damage.
func (r *Reader) readFile(p []byte, off int64) (int, error) {
	n, err := r.shared.readFile(r.image, p, off)
	if localfile.Unreadable(err) {
		r.image.forget(Range{Offset: off, Length: int64(len(p))})
		n, err = r.shared.readFile(r.image, p, off)
	}
	if localfile.Unreadable(err) {
		return n, r.damage(Range{Offset: off, Length: int64(len(p))}, localfile.Reason(err))
	}
	return n, err
}

// prove compares the ranges that data holds, of which n bytes were read at off,
// with their hashes.
func (r *Reader) prove(data []byte, n int, off int64) error {
	first, count := off/r.layout.unit, (int64(len(data))+r.layout.unit-1)/r.layout.unit
	var few [16 * hashSize]byte
	sums, err := r.sums(few[:0], first, count)
	if err != nil {
		return err
	}
	for i := range count {
		place := r.layout.at(first + i)
		at := place.Offset - off
		p, sum := data[at:at+place.Length], [hashSize]byte(sums[i*hashSize:])
		if int64(n) < at+place.Length || hashRange(p) != sum {
			if err := r.readAgain(p, place, sum); err != nil {
				return err
			}
		}
		r.proven.add(first + i)
	}
	return nil
}

// readAgain reads a range that differed from its hash once more, past the page
// cache: what is there is what the storage returned, or what memory made of it.
func (r *Reader) readAgain(p []byte, place Range, sum [hashSize]byte) error {
	r.image.forget(place)
	n, err := r.readFile(p, place.Offset)
	switch {
	case err != nil:
		return err
	case int64(n) < place.Length:
		return r.damage(place, fmt.Sprintf("missing: the file ends at byte %d of %d", place.Offset+int64(n), r.layout.length))
	case hashRange(p) != sum:
		return r.damage(place, "differs from what was written, and did so when it was read again")
	}
	r.misread(r.image, place)
	return nil
}

func (r *Reader) damage(place Range, what string) error { return &DamageError{place, what} }

func (r *Reader) misread(f File, place Range) { r.shared.misread(misreadOf(f.Name, place)) }

func (r *Reader) listMisread(place Range) { r.misread(r.stored, place) }

// sums appends the proven hashes of n ranges.
func (r *Reader) sums(to []byte, first, n int64) ([]byte, error) {
	list, err := r.openList(nil)
	if err != nil {
		return nil, err
	}
	sums, err := list.sums(to, first, n)
	if !errors.Is(err, ErrListUnusable) {
		return sums, err
	}
	if list, err = r.openList(list); err != nil {
		return nil, err
	}
	return list.sums(to, first, n)
}

// openList returns the list. unusable is one that was found to be damaged, nil at
// first: a list is computed from the image then.
func (r *Reader) openList(unusable *provenList) (*provenList, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.list != unusable {
		return r.list, nil
	}
	if r.list == nil {
		list := r.storedList()
		err := list.openList()
		if err == nil {
			r.list = list
			return list, nil
		}
		if !errors.Is(err, ErrListUnusable) {
			return nil, err
		}
	}
	if r.wrong != nil {
		return nil, r.wrong
	}
	r.shared.warn(r.stored.Name + ": is damaged; the image was read as a whole, and is what the manifest says, unless damage is reported")
	r.proven.computed.Store(true)
	list, err := r.computeList()
	if err != nil {
		errors.As(err, &r.wrong)
		return nil, err
	}
	r.list = list
	return list, nil
}

// storedList is the list that lies beside the image.
func (r *Reader) storedList() *provenList {
	return &provenList{layout: r.layout, shared: r.shared, digest: r.digest, misread: r.listMisread,
		read: func(p []byte, offset int64) (int, error) { return r.shared.readFile(r.stored, p, offset) }, forget: r.stored.forget}
}
