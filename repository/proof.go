package repository

import (
	"cmp"
	"io"
	"path/filepath"
	"sync/atomic"

	"github.com/virtbackup/virtbackup/directio"
)

// Proof remembers which ranges of an image were read and are what the hash list
// says, so that a check of the whole image need not read them again
// (CheckOptions.Proof). It takes a bit for each MiB of the image.
type Proof struct{ ranges []atomic.Uint64 }

func newProof(length int64) *Proof {
	return &Proof{make([]atomic.Uint64, (rangeCount(length)+63)/64)}
}

func (p *Proof) add(index int64) { p.ranges[index/64].Or(1 << (index % 64)) }

// has is false for a nil Proof and behind the image's end.
func (p *Proof) has(index int64) bool {
	return p != nil && index/64 < int64(len(p.ranges)) && p.ranges[index/64].Load()&(1<<(index%64)) != 0
}

// provingReader reads one image of a chain in whole ranges, as far as it can,
// and holds each that it reads for the first time against the hash list. What
// differs it returns all the same: whether image or list is damaged, the check
// says that follows. It is safe for concurrent use.
type provingReader struct {
	file   *directio.Reader
	length int64     // of the image by its manifest, bytes
	list   *HashList // nil: there is none that could be used
	proof  *Proof
	cache  *rangeCache
}

// newProvingReader reads a file that stays the caller's. Without a list nothing is
// proven, and the check says why there is none.
func newProvingReader(l Link, file *directio.Reader, cache *rangeCache) *provingReader {
	r := &provingReader{file: file, length: l.Disk.ImageBytes, proof: newProof(l.Disk.ImageBytes), cache: cache}
	list, err := OpenHashes(filepath.Join(filepath.Dir(l.Path), l.Disk.HashesFile()))
	if err != nil {
		return r
	}
	if list.ImageLength() == r.length {
		r.list = list
	} else {
		_ = list.Close() // only read
	}
	return r
}

func (r *provingReader) close() {
	if r.list != nil {
		_ = r.list.Close() // only read
	}
}

// ReadAt is that of io.ReaderAt. Whole ranges go straight into p, which is
// page-aligned then; of others the part that is asked for is taken from the
// cache, or read alone where the range was proven and forgotten before.
func (r *provingReader) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := r.readSome(p[done:], off+int64(done))
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// readSome reads whole ranges, or what p has of the range at off.
func (r *provingReader) readSome(p []byte, off int64) (int, error) {
	if whole := len(p) &^ (RangeLength - 1); off%RangeLength == 0 && whole > 0 {
		n, err := r.file.ReadAt(p[:whole], off)
		for at := 0; at+RangeLength <= n; at += RangeLength {
			r.prove((off+int64(at))/RangeLength, p[at:at+RangeLength])
		}
		return n, err
	}
	index, within := off/RangeLength, int(off%RangeLength)
	p = p[:min(len(p), RangeLength-within)]
	c := r.cache.get(r, index)
	if c == nil {
		return r.file.ReadAt(p, off)
	}
	defer r.cache.put(c)
	if c.err != nil || within >= c.length {
		return 0, cmp.Or(c.err, io.EOF)
	}
	n := copy(p, c.buf[within:c.length])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// readRange fills buf with a range, less of it at the file's end.
func (r *provingReader) readRange(index int64, buf []byte) (int, error) {
	n, err := r.file.ReadPiece(buf, index*RangeLength)
	if err != nil {
		return 0, err
	}
	r.file.Forget(index*RangeLength, int64(n))
	if want := min(RangeLength, r.length-index*RangeLength); want > 0 && int64(n) >= want {
		r.prove(index, buf[:want])
	}
	return n, nil
}

// prove notes whether a range is what the hash list says.
func (r *provingReader) prove(index int64, data []byte) {
	if r.list == nil || index >= int64(r.list.Len()) || r.proof.has(index) {
		return
	}
	if _, _, sum, err := r.list.Range(int(index)); err == nil && sum == hashRange(data) {
		r.proof.add(index)
	}
}
