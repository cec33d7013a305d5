package merge

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/virtbackup/virtbackup/diskimage"
	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/localfile"
)

// cloneFile is the clone as package graft sees it. Ranges that were not changed are read from
// the lowest image itself and proven by its list; those that were, from the clone, and are
// compared with their new hash.
type cloneFile struct {
	was     *diskimage.Reader
	is      *os.File
	list    *hashlist.Editor
	written int64
	buf     []byte // a range
}

// ReadAt is that of io.ReaderAt.
func (f *cloneFile) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		at := off + int64(done)
		part := p[done:min(int64(len(p)), int64(done)+cluster-at%cluster)]
		n, err := f.readPart(part, at)
		done += n
		if err != nil || n < len(part) {
			return done, err
		}
	}
	return done, nil
}

func (f *cloneFile) readPart(p []byte, off int64) (int, error) {
	index := off / cluster
	if !f.list.Changed().Has(index) {
		return f.was.ReadAt(p, off)
	}
	sum, err := f.list.Sum(index)
	if err != nil {
		return 0, err
	}
	if f.buf == nil {
		f.buf = make([]byte, cluster)
	}
	if _, err := io.ReadFull(io.NewSectionReader(f.is, index*cluster, cluster), f.buf); err != nil {
		return 0, err
	}
	if hashlist.SumOf(f.buf) != sum {
		return 0, fmt.Errorf("%s: what was written at offset %d is not what is read", f.is.Name(), index*cluster)
	}
	return copy(p, f.buf[off%cluster:]), nil
}

// WriteAt writes and hashes a cluster.
func (f *cloneFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.is.WriteAt(p, off)
	if err != nil {
		return n, err
	}
	f.written += int64(len(p))
	return n, f.list.Set(off/cluster, hashlist.SumOf(p))
}

// maxSources are open at a time, besides those that are read.
const maxSources = 16

// sources are the files that ranges are cloned from.
type sources struct {
	files []*os.File // the one that was used last is the last
	paths []string
}

// open opens the image of a link, which stays the sources'.
func (s *sources) open(l diskimage.Link) (*os.File, error) {
	for i, path := range s.paths {
		if path == l.Path {
			f := s.files[i]
			s.files = append(append(s.files[:i:i], s.files[i+1:]...), f)
			s.paths = append(append(s.paths[:i:i], s.paths[i+1:]...), path)
			return f, nil
		}
	}
	f, err := localfile.OpenRegular(l.Path)
	if err != nil {
		return nil, cloneError(l.Path, err)
	}
	if len(s.files) == maxSources {
		s.files[0].Close() // only read
		s.files, s.paths = s.files[1:], s.paths[1:]
	}
	s.files, s.paths = append(s.files, f), append(s.paths, l.Path)
	return f, nil
}

func (s *sources) close() {
	for _, f := range s.files {
		f.Close() // only read
	}
}

// maxChanged bounds Stats.Changed, and so memory: 4 MiB.
const maxChanged = 1 << 18

// ReadBack reads the changed ranges of an image that was made by Clone past the page cache
// and compares them with its new hash list. Damage is a *damage.Error. What is not read was
// not changed either: it is as sound as the lowest image of the run was.
func ReadBack(ctx context.Context, l diskimage.Link, changed []hashlist.Range, o Options) error {
	r, closeImage := diskimage.OpenImage(ctx, l, o.readOptions())
	defer closeImage()
	buf := directio.Buffer(1 << 20)
	read := int64(0)
	for _, part := range changed {
		for end := part.Offset + part.Length; part.Offset < end; part.Offset += int64(len(buf)) {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			p := buf[:min(int64(len(buf)), end-part.Offset)]
			if err := o.Limits.WaitN(ctx, len(p)); err != nil {
				return err
			}
			if _, err := r.ReadAt(p, part.Offset); err != nil {
				return err
			}
			read += int64(len(p))
			if o.Progress != nil {
				o.Progress(read)
			}
		}
	}
	return nil
}
