package diskimage

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/localfile"
)

// maxOpen files of a chain are open at a time, whatever its length, besides
// those that are being read: images and hash lists. In a longer chain files are
// opened repeatedly, which takes some 20 µs on a local file system.
const maxOpen = 64

// keepOpen is maxOpen, or a quarter of what this process may open: the images that are
// written, and other disks' chains, need files, too.
func keepOpen() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur/4 >= maxOpen {
		return maxOpen
	}
	return max(1, int(limit.Cur/4))
}

// filePool opens files when they are read, and closes those that were not for
// longest. What is read is proven by hashes, so a file that was replaced meanwhile
// is detected. It is safe for concurrent use.
type filePool struct {
	limit  int  // files that are kept open
	cached bool // they are read through the page cache

	mu     sync.Mutex
	files  map[string]*pooledFile
	clock  int64
	closed bool
}

// pooledFile is an open file; all but the first two under the pool's lock.
type pooledFile struct {
	file   *os.File
	reader *directio.Reader
	users  int
	used   int64 // by the pool's clock
}

func newFilePool(cached bool) *filePool {
	return &filePool{limit: keepOpen(), cached: cached, files: map[string]*pooledFile{}}
}

// with calls do with a reader of the file, which is do's until it returns.
func (p *filePool) with(path string, do func(*directio.Reader) error) error {
	f, err := p.take(path)
	if err != nil {
		return err
	}
	defer p.give(f)
	return do(f.reader)
}

// pooledPath is a file that is opened when it is read.
type pooledPath struct {
	pool *filePool
	path string
}

// ReadAt is that of io.ReaderAt.
func (f pooledPath) ReadAt(p []byte, off int64) (n int, err error) {
	err = f.pool.with(f.path, func(r *directio.Reader) (err error) {
		n, err = r.ReadAt(p, off)
		return err
	})
	return n, err
}

// Forget empties the page cache of a part of the file.
func (f pooledPath) Forget(offset, length int64) {
	_ = f.pool.with(f.path, func(r *directio.Reader) error { // advice; who reads next gets the error
		r.Forget(offset, length)
		return nil
	})
}

func (p *filePool) take(path string) (*pooledFile, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, &os.PathError{Op: "open", Path: path, Err: os.ErrClosed}
	}
	f := p.files[path]
	if f == nil {
		p.shrink(p.limit - 1)
		var err error
		if f, err = p.open(path); errors.Is(err, unix.EMFILE) {
			p.shrink(0)
			f, err = p.open(path)
		}
		if err != nil {
			return nil, err
		}
		p.files[path] = f
	}
	p.clock++
	f.users, f.used = f.users+1, p.clock
	return f, nil
}

func (p *filePool) open(path string) (*pooledFile, error) {
	file, err := localfile.OpenRegular(path)
	if err != nil {
		return nil, err
	}
	if p.cached {
		return &pooledFile{file: file, reader: directio.NewCachedReader(file)}, nil
	}
	reader, err := directio.NewReader(file)
	if err != nil {
		return nil, errors.Join(&os.PathError{Op: "open", Path: path, Err: err}, file.Close())
	}
	return &pooledFile{file: file, reader: reader}, nil
}

// shrink closes files that nobody reads until there are no more than limit.
func (p *filePool) shrink(limit int) {
	for len(p.files) > limit {
		oldest := ""
		for path, f := range p.files {
			if f.users == 0 && (oldest == "" || f.used < p.files[oldest].used) {
				oldest = path
			}
		}
		if oldest == "" {
			return
		}
		_ = p.files[oldest].file.Close() // only read
		delete(p.files, oldest)
	}
}

func (p *filePool) give(f *pooledFile) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f.users--
	if p.closed && f.users == 0 {
		_ = f.file.Close()
	}
}

// close closes all files, each when nobody reads it any more.
func (p *filePool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.shrink(0)
}
