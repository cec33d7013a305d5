package extras

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/pointfile"
)

// errUnsteady says that a file has changed whenever it was read.
var errUnsteady = errors.New("it is written to all the time")

const (
	// steadyTime bounds the tries to read a file that changes. Firmware writes a variable in
	// milliseconds, and the backup job waits.
	steadyTime = 2 * time.Second
	// betweenTries is the time for what writes to the file.
	betweenTries = 50 * time.Millisecond
	// linkFrom is the size, in bytes, from which a file that an earlier point has is stored
	// once: below it nothing is gained.
	linkFrom = 1 << 20
)

// copySteady copies a file, or a block device, as it was at one instant, and completes e. It
// reads it twice: what is the same both times, while size, mtime and ctime say that nothing was
// written from before the first until after the second, is what the file held between the two.
// A block device has no times; there, the two readings have to do.
func (t *taker) copySteady(ctx context.Context, e manifest.Extra) (manifest.Extra, error) {
	for end := time.Now().Add(steadyTime); ; {
		done, err := t.tryCopy(ctx, &e)
		switch {
		case err != nil:
			return e, err
		case done:
			return e, nil
		case time.Now().After(end):
			return e, &sourceError{e.Path, errUnsteady}
		}
		select {
		case <-ctx.Done():
			return e, context.Cause(ctx)
		case <-time.After(betweenTries):
		}
	}
}

// tryCopy tries it once; done is false if the file has changed meanwhile.
func (t *taker) tryCopy(ctx context.Context, e *manifest.Extra) (done bool, err error) {
	f, before, err := open(e.Path)
	if err != nil {
		return false, &sourceError{e.Path, err}
	}
	defer f.Close()
	r := &reader{from: f, ctx: ctx, moves: t.Moves}
	sum, err := r.digest()
	if err != nil {
		return false, r.explain(e.Path, err)
	}
	e.Mode, e.UID, e.GID = fmt.Sprintf("%04o", before.Mode&0o777), int(before.Uid), int(before.Gid)
	if e.Size = r.size; e.Size >= linkFrom && t.linkEarlier(ctx, *e, sum) {
		return t.unchanged(f, before, e.File)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return false, &sourceError{e.Path, err}
	}
	again, size, err := t.Point.CopyFile(e.File, r)
	if err != nil {
		return false, r.explain(e.Path, err)
	}
	if again != sum || size != e.Size {
		return false, t.Point.DropFile(e.File)
	}
	return t.unchanged(f, before, e.File)
}

// unchanged drops what was copied if f has changed.
func (t *taker) unchanged(f *os.File, before unix.Stat_t, file string) (bool, error) {
	var after unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &after); err != nil {
		return false, errors.Join(err, t.Point.DropFile(file))
	}
	if after.Size == before.Size && after.Mtim == before.Mtim && after.Ctim == before.Ctim || before.Mode&unix.S_IFMT == unix.S_IFBLK {
		return true, nil
	}
	return false, t.Point.DropFile(file)
}

// linkEarlier links the file of the newest earlier point that has the same content, if there is
// one and it is sound.
func (t *taker) linkEarlier(ctx context.Context, e manifest.Extra, sum string) bool {
	if len(t.Earlier) == 0 {
		return false
	}
	newest := t.Earlier[len(t.Earlier)-1]
	for _, have := range newest.ExtrasOf(e.Kind) {
		if newest.Files[have.File] != sum {
			continue
		}
		dir := filepath.Join(filepath.Dir(t.Point.Dir()), newest.ID)
		found, err := pointfile.Check(ctx, dir, newest, have.File, func(int64) { t.Moves() })
		return err == nil && len(found) == 0 && t.Point.LinkFile(e.File, newest, have.File) == nil
	}
	return false
}

// open opens a regular file or a block device; a symbolic link is followed, as QEMU does.
func open(path string) (*os.File, unix.Stat_t, error) {
	var stat unix.Stat_t
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		if errors.Is(err, syscall.ENXIO) {
			err = localfile.ErrNotRegular
		}
		return nil, stat, err
	}
	err = unix.Fstat(int(f.Fd()), &stat)
	if kind := stat.Mode & unix.S_IFMT; err == nil && kind != unix.S_IFREG && kind != unix.S_IFBLK {
		err = fmt.Errorf("%s %w", path, localfile.ErrNotRegular)
	}
	if err != nil {
		f.Close()
		return nil, stat, err
	}
	return f, stat, nil
}

// reader reads until ctx is cancelled. It remembers its error, so that one of reading is told
// from one of writing.
type reader struct {
	from  io.Reader
	ctx   context.Context
	moves func()
	size  int64 // bytes that digest has read
	err   error
}

// Read is that of from.
func (r *reader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	n, err := r.from.Read(p)
	r.moves()
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

func (r *reader) digest() (sum string, err error) {
	sum, r.size, err = pointfile.Sum(r)
	return sum, err
}

// explain marks an error of reading.
func (r *reader) explain(path string, err error) error {
	if r.err != nil {
		return &sourceError{path, r.err}
	}
	return err
}
