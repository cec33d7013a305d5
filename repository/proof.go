package repository

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/qcow2"
)

// Proof remembers which ranges of an image were read and are what the hash list
// says, so that a check of the whole image need not read them again
// (CheckOptions.Proof). It takes a bit for each range of the image.
type Proof struct {
	ranges []atomic.Uint64
	// computed: the list on disk is damaged, and another one has proven the
	// ranges. A check reads all then, and says what is damaged.
	computed atomic.Bool
}

func newProof(l layout) *Proof { return &Proof{ranges: make([]atomic.Uint64, (l.ranges()+63)/64)} }

func (p *Proof) add(index int64) { p.ranges[index/64].Or(1 << (index % 64)) }

// has is false for a nil Proof and behind the image's end.
func (p *Proof) has(index int64) bool {
	return p != nil && !p.computed.Load() && index/64 < int64(len(p.ranges)) && p.ranges[index/64].Load()&(1<<(index%64)) != 0
}

// reading is what the images of an open chain share.
type reading struct {
	ctx      context.Context // ends what reads a whole image or list
	warn     func(string)
	progress func() // called after each read
	files    *filePool
	cache    *rangeCache
	scratch  *scratch

	misreads atomic.Int64
}

func newReading(ctx context.Context, warn func(string)) *reading {
	return &reading{ctx: ctx, warn: warn, progress: func() {}, files: newFilePool(), cache: newRangeCache(), scratch: &scratch{}}
}

// readFile fills p from a file, less of it where the file ends.
func (c *reading) readFile(path string, p []byte, off int64) (n int, err error) {
	err = c.files.with(path, func(file *directio.Reader) (err error) {
		if n, err = file.ReadAt(p, off); err == io.EOF {
			err = nil
		}
		return err
	})
	if err == nil {
		c.progress()
	}
	return n, err
}

func (c *reading) close() {
	c.files.close()
	c.scratch.close()
}

// mostMisreads are told of one by one: a cable that fails spoils more than
// anybody reads.
const mostMisreads = 20

// misread tells of a place that was read wrong once.
func (c *reading) misread(place string) {
	switch n := c.misreads.Add(1); {
	case n <= mostMisreads:
		c.warn(place)
	case n == mostMisreads+1:
		c.warn("more was read wrong once, and right when it was read again; it is not listed")
	}
}

// readTwice is what to say of what was wrong only once.
const readTwice = "differed from its hash when it was read first, and was right when read again: memory, a cable, a controller or the network spoils data"

// provingReader reads one image of a chain. What it returns was compared with
// the hash list, and the list with the manifest. A range that differs is read
// once more; where it differs again, that is damage. It is safe for concurrent
// use.
type provingReader struct {
	chain  *reading
	link   Link
	layout layout
	proof  *Proof

	mu   sync.Mutex // held while a list is opened or computed
	list *provenList
}

func (c *reading) reader(l Link) *provingReader {
	return &provingReader{chain: c, link: l, layout: layoutOf(l.Disk), proof: newProof(layoutOf(l.Disk))}
}

// ReadAt is that of io.ReaderAt. Whole ranges go straight into p, without a copy
// if it is page-aligned; of others the part that is asked for is taken from the
// cache. The image ends where its manifest says: what was appended is not proven.
// Damage is a *DamagedError.
func (r *provingReader) ReadAt(p []byte, off int64) (int, error) {
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

// readSome reads whole ranges, or what p has of the range at off.
func (r *provingReader) readSome(p []byte, off int64) (int, error) {
	unit := r.layout.unit
	if whole := min(int64(len(p)), r.layout.length-off) &^ (unit - 1); off%unit == 0 && whole > 0 {
		if err := r.readWhole(p[:whole], off); err != nil {
			return 0, err
		}
		return int(whole), nil
	}
	c, err := r.chain.cache.get(r, off/unit)
	if err != nil {
		return 0, err
	}
	defer r.chain.cache.put(c)
	return copy(p, c.data[off%unit:]), nil
}

// readWhole reads whole ranges.
func (r *provingReader) readWhole(p []byte, off int64) error {
	n, err := r.readFile(p, off)
	if err != nil {
		return err
	}
	return r.prove(p, n, off)
}

// rangeLength and readRange are for the cache.
func (r *provingReader) rangeLength(index int64) int64 { return r.layout.at(index).Length }

func (r *provingReader) readRange(index int64, buf []byte) error {
	off := index * r.layout.unit
	n, err := r.readFile(buf, off)
	if err != nil {
		return err
	}
	return r.prove(buf[:r.rangeLength(index)], n, off)
}

// readFile fills p from the image, less of it where the file ends. What storage cannot
// read, and cannot when asked again, is damage.
func (r *provingReader) readFile(p []byte, off int64) (int, error) {
	n, err := r.chain.readFile(r.link.Path, p, off)
	if localfile.Unreadable(err) {
		n, err = r.chain.readFile(r.link.Path, p, off)
	}
	if localfile.Unreadable(err) {
		return n, r.damage(qcow2.Range{Offset: off, Length: int64(len(p))}, localfile.Reason(err))
	}
	return n, err
}

// prove compares the ranges that data holds, of which n bytes were read at off,
// with their hashes.
func (r *provingReader) prove(data []byte, n int, off int64) error {
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
		r.proof.add(first + i)
	}
	return nil
}

// readAgain reads a range that differed from its hash once more, past the page
// cache: what is there is what the storage returned, or what memory made of it.
func (r *provingReader) readAgain(p []byte, place qcow2.Range, sum [hashSize]byte) error {
	n, err := r.readFile(p, place.Offset)
	switch {
	case err != nil:
		return err
	case int64(n) < place.Length:
		return r.damage(place, fmt.Sprintf("missing: the file ends at byte %d of %d", place.Offset+int64(n), r.layout.length))
	case hashRange(p) != sum:
		return r.damage(place, "differs from what was written, and did so when it was read again")
	}
	r.misread(r.link.Disk.Image, place)
	return nil
}

func (r *provingReader) damage(place qcow2.Range, what string) error {
	return DamagedBy([]Damage{{Domain: r.link.Point.Domain, Point: r.link.Point.ID, File: r.name(r.link.Disk.Image),
		Disk: r.link.Disk.Target, Offset: place.Offset, Length: place.Length, What: what, WholeDisk: true}})
}

func (r *provingReader) name(file string) string {
	return filepath.Join(r.link.Point.Domain, r.link.Point.ID, file)
}

func (r *provingReader) misread(file string, place qcow2.Range) {
	r.chain.misread(misreadOf(r.name(file), r.link.Disk.Target, place))
}

func misreadOf(file, disk string, place qcow2.Range) string {
	return fmt.Sprintf("%s (disk %s): %d bytes at offset %d: %s", file, disk, place.Length, place.Offset, readTwice)
}

func (r *provingReader) listMisread(place qcow2.Range) { r.misread(r.link.Disk.HashesFile(), place) }

// sums appends the proven hashes of n ranges.
func (r *provingReader) sums(to []byte, first, n int64) ([]byte, error) {
	list, err := r.openList(nil)
	if err != nil {
		return nil, err
	}
	sums, err := list.sums(to, first, n)
	if !errors.Is(err, errListUnusable) {
		return sums, err
	}
	if list, err = r.openList(list); err != nil {
		return nil, err
	}
	return list.sums(to, first, n)
}

// openList returns the list. unusable is one that was found to be damaged, nil at
// first: a list is computed from the image then.
func (r *provingReader) openList(unusable *provenList) (*provenList, error) {
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
		if !errors.Is(err, errListUnusable) {
			return nil, err
		}
	}
	r.chain.warn(fmt.Sprintf("%s (disk %s): is damaged; the image was read as a whole, and is what the manifest says, unless damage is reported",
		r.name(r.link.Disk.HashesFile()), r.link.Disk.Target))
	r.proof.computed.Store(true)
	list, err := r.computeList()
	if err != nil {
		return nil, err
	}
	r.list = list
	return list, nil
}

// storedList is the list that lies beside the image.
func (r *provingReader) storedList() *provenList {
	path := filepath.Join(filepath.Dir(r.link.Path), r.link.Disk.HashesFile())
	return &provenList{layout: r.layout, chain: r.chain, digest: r.link.Disk.Hashes, misread: r.listMisread,
		read: func(p []byte, offset int64) (int, error) { return r.chain.readFile(path, p, offset) }}
}
