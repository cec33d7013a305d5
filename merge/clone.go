package merge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/diskimage"
	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/qcow2/chain"
	"github.com/virtbackup/virtbackup/qcow2/graft"
)

// ErrNoClone is what the error of Clone wraps where Rewrite may do what it cannot: the file
// system shares no data between files (localfile.ErrNotSupported), the lowest image is not
// one that can be changed, or its hash list is damaged.
var ErrNoClone = errors.New("the run cannot be merged in a clone")

// CanClone says why a run with these images, base first, cannot be cloned, as far as their
// manifests tell; "" if nothing speaks against it. Whether the file system can do it is found
// out by trying.
func CanClone(links []diskimage.Link) (reason string) {
	switch d := links[0].Disk; {
	case len(links) == 1:
		return "there is only one image"
	case d.HashRange != hashlist.RangeLength:
		return fmt.Sprintf("the hash list of %s is of format 1, with ranges of 1 MiB", links[0].Path)
	case d.ImageBytes%hashlist.RangeLength != 0:
		return fmt.Sprintf("%s is no whole number of clusters long", links[0].Path)
	}
	return ""
}

// Clone makes path.qcow2 and path.hashes, neither of which may exist, of a run of two images
// or more: clones of the lowest image and its hash list, which share their data, into which
// the changes of the others are put. Clusters that are not compressed are cloned, too, and
// their hashes are carried over from the list of their image, without reading them. Tables,
// compressed clusters and what the end of an image hides a part of are read, proven, and
// written. So what it reads and writes is set by the images above the lowest. Clusters of the
// lowest image that are not needed any more become holes, or are used again.
//
// Both files are on stable storage when it returns; their names are the caller's to sync.
// With an error neither is there. It wraps ErrNoClone, says what is damaged (*damage.Error),
// or is that of ctx. Memory is some 60 MiB whatever the length of the run.
func Clone(ctx context.Context, run Run, path string, o Options) (Stats, error) {
	stats, err := clone(ctx, run, path, o)
	if err != nil {
		return Stats{}, fmt.Errorf("merge the %d images of %s in a clone: %w", len(run.Links), run.name(), err)
	}
	return stats, nil
}

func clone(ctx context.Context, run Run, path string, o Options) (Stats, error) {
	if err := run.check(); err != nil {
		return Stats{}, err
	}
	if reason := CanClone(run.Links); reason != "" {
		return Stats{}, fmt.Errorf("%w: %s", ErrNoClone, reason)
	}
	c, err := newCloner(ctx, run, o)
	if err != nil {
		return Stats{}, err
	}
	defer c.close()
	if err := c.create(path); err != nil {
		return Stats{}, err
	}
	stats, err := c.merge()
	if err == nil {
		err = c.sync()
	}
	if err != nil {
		return Stats{}, errors.Join(listUnusable(run.Links[0], err), c.remove())
	}
	return stats, nil
}

// cloner is one run of Clone.
type cloner struct {
	ctx     context.Context
	run     Run
	options Options

	readers []*diskimage.Reader // of Below and Links
	upper   *chain.Chain        // Links but for the lowest
	reader  *chain.Reader       // of upper
	closers []func()

	image *os.File
	list  *os.File
	file  *cloneFile
	graft *graft.Image

	size    int64 // of the lowest disk, bytes
	mixedAt int64 // offset on the disk of the cluster in which a smaller image ends; -1: none
	sources sources
	pending cloneRun
	frames  frameBatch
	buf     []byte // a cluster
	copied  int64
}

// cluster is the only cluster size of images that are cloned: a range of their hash list.
const cluster = hashlist.RangeLength

// newCloner opens the run.
func newCloner(ctx context.Context, run Run, o Options) (_ *cloner, err error) {
	c := &cloner{ctx: ctx, run: run, options: o, buf: directio.Buffer(cluster)}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	var closeReaders func()
	c.readers, closeReaders = diskimage.OpenImages(ctx, append(run.Below[:len(run.Below):len(run.Below)], run.Links...), o.readOptions())
	c.closers = append(c.closers, closeReaders, c.sources.close)
	if c.upper, err = openChain(c.above(), run.target().Path); err != nil {
		return nil, err
	}
	if c.upper.ClusterSize() != cluster {
		return nil, fmt.Errorf("%w: clusters of %d bytes", ErrNoClone, c.upper.ClusterSize())
	}
	c.reader = c.upper.NewReader()
	return c, nil
}

// bottom reads the lowest image, and above those above it.
func (c *cloner) bottom() *diskimage.Reader  { return c.readers[len(c.run.Below)] }
func (c *cloner) above() []*diskimage.Reader { return c.readers[len(c.run.Below)+1:] }

func openChain(readers []*diskimage.Reader, path string) (*chain.Chain, error) {
	images := make([]io.ReaderAt, len(readers))
	for i, r := range readers {
		images[i] = r
	}
	opened, err := chain.Open(images)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return opened, nil
}

// create clones the lowest image and its list.
func (c *cloner) create(path string) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, c.remove())
		}
	}()
	lowest := c.run.Links[0]
	if c.image, err = cloneFileOf(lowest.Path, path+manifest.ImageSuffix); err != nil {
		return err
	}
	if c.list, err = cloneFileOf(lowest.HashesPath(), path+manifest.HashesSuffix); err != nil {
		return err
	}
	editor, err := hashlist.OpenEditor(c.ctx, c.list, lowest.List())
	if err != nil {
		return listUnusable(lowest, err)
	}
	c.file = &cloneFile{was: c.bottom(), is: c.image, list: editor}
	return c.open()
}

// listUnusable marks the error of a list that is damaged: the image may be sound, and be
// rewritten.
func listUnusable(l diskimage.Link, err error) error {
	if errors.Is(err, hashlist.ErrListUnusable) {
		return fmt.Errorf("%w: %s: %w", ErrNoClone, l.HashesPath(), err)
	}
	return err
}

// open opens the new image, which is the lowest one still, and gives it the size of the
// target's.
func (c *cloner) open() (err error) {
	path := c.run.Links[0].Path
	if c.graft, err = graft.Open(c.file, c.run.Links[0].Disk.ImageBytes); errors.Is(err, graft.ErrForeign) {
		return fmt.Errorf("%w: %s: %w", ErrNoClone, path, err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	h := c.graft.Header()
	if h.ClusterSize != cluster {
		return fmt.Errorf("%w: %s: clusters of %d bytes", ErrNoClone, path, h.ClusterSize)
	}
	if h.BackingFile != c.run.parent() {
		return fmt.Errorf("%s: its backing file is %q, its manifest says %q", path, h.BackingFile, c.run.parent())
	}
	c.size = h.VirtualSize
	smallest := c.size
	for i := range c.upper.Images() {
		smallest = min(smallest, c.upper.Visible(i))
	}
	c.mixedAt = -1
	if smallest%cluster != 0 && smallest < c.upper.Size() {
		c.mixedAt = smallest - smallest%cluster
	}
	return c.graft.Resize(c.upper.Size())
}

// cloneFileOf makes a file that shares the data of another one.
func cloneFileOf(from, to string) (*os.File, error) {
	source, err := localfile.OpenRegular(from)
	if err != nil {
		return nil, cloneError(from, err)
	}
	defer source.Close()
	f, err := os.OpenFile(to, os.O_RDWR|os.O_CREATE|os.O_EXCL, localfile.FileMode)
	if err != nil {
		return nil, err
	}
	err = fault.Point("clone file")
	if err == nil {
		err = localfile.Clone(source, f)
	}
	if err != nil {
		return nil, errors.Join(cloneError(from, err), f.Close(), os.Remove(to))
	}
	return f, nil
}

// cloneError tells which errors of a file a rewrite may do without, or says better.
func cloneError(path string, err error) error {
	if errors.Is(err, localfile.ErrNotSupported) || !localfile.CannotCheck(err) && !localfile.IsFull(err) {
		return fmt.Errorf("%w: %s: %w", ErrNoClone, path, err)
	}
	return err
}

// merge puts the changes of the upper images into the clone.
func (c *cloner) merge() (Stats, error) {
	for i := range c.upper.Windows() {
		if c.ctx.Err() != nil {
			return Stats{}, context.Cause(c.ctx)
		}
		if err := c.window(i); err != nil {
			return Stats{}, err
		}
	}
	if err := c.flush(); err != nil {
		return Stats{}, err
	}
	end, err := c.graft.Finish()
	if err != nil {
		return Stats{}, fmt.Errorf("%s: %w", c.image.Name(), err)
	}
	if err := c.punch(); err != nil {
		return Stats{}, err
	}
	return c.finish(end)
}

// punch frees what the image does not need any more, and hashes it as zeros.
func (c *cloner) punch() error {
	zeros := hashlist.SumOf(make([]byte, cluster))
	for offset, length := range c.graft.Freed(1 << 14) {
		if err := localfile.Punch(c.image, offset, length); err != nil {
			return cloneError(c.image.Name(), err)
		}
		for i := range length / cluster {
			if err := c.file.list.Set(offset/cluster+i, zeros); err != nil {
				return err
			}
		}
	}
	return nil
}

// finish completes the hash list.
func (c *cloner) finish(end graft.Stats) (Stats, error) {
	if err := c.image.Truncate(end.Length); err != nil {
		return Stats{}, err
	}
	digest, err := c.file.list.Finish(end.Length)
	if err != nil {
		return Stats{}, err
	}
	lowest := c.run.Links[0].Disk
	s := Stats{DataBytes: lowest.DataBytes + end.DataBytes, ImageBytes: end.Length, Hashes: digest,
		Written: c.file.written + c.file.list.Written(), Changed: c.file.changed()}
	if c.run.parent() != "" {
		s.ZeroBytes = lowest.ZeroBytes + end.ZeroBytes
	}
	return s, nil
}

// sync puts both files on stable storage, and leaves nothing of them in the page cache.
func (c *cloner) sync() error {
	for _, f := range []*os.File{c.image, c.list} {
		if err := localfile.Sync(f); err != nil {
			return err
		}
		unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	}
	return nil
}

// remove removes the files that were made.
func (c *cloner) remove() error {
	var errs []error
	for _, f := range []*os.File{c.image, c.list} {
		if f != nil {
			errs = append(errs, os.Remove(f.Name()))
		}
	}
	return errors.Join(errs...)
}

func (c *cloner) close() {
	for _, f := range []*os.File{c.image, c.list} {
		if f != nil {
			f.Close() // synced, or removed
		}
	}
	for _, do := range c.closers {
		do()
	}
}
