package diskimage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/qcow2/chain"
)

// Link is one image of a chain.
type Link struct {
	Point manifest.Manifest
	Disk  manifest.Disk
	Path  string // of the image
}

// List says how the hash list of the image was written.
func (l Link) List() hashlist.List { return listOf(l.Disk) }

// HashesPath is that of the image's hash list.
func (l Link) HashesPath() string { return filepath.Join(filepath.Dir(l.Path), l.Disk.HashesFile()) }

// OpenChain opens the images of a chain, base first. All that is read of them, headers and
// tables included, was compared with their hash lists first, and those with the
// digests in the manifests: what is wrong when read again is a
// *damage.Error, what is as it was written, but no chain, a *chain.Error. Cancelling
// ctx stops readers that read much more than they were asked for: a whole image, because
// its list is damaged.
//
// Memory and open files are bounded whatever the number of links: what Readers share, and
// maxOpen files, besides what chain.Chain keeps of each image. Each link has the ranges
// that were proven, for CheckOptions. The caller closes the chain when nobody reads it any
// more.
func OpenChain(ctx context.Context, links []Link, o hashlist.ReadOptions) (_ *chain.Chain, proven []*hashlist.ProvenRanges, close func(), err error) {
	readers, close := OpenImages(ctx, links, o)
	var images []io.ReaderAt
	for _, r := range readers {
		images, proven = append(images, r), append(proven, r.Proven())
	}
	opened, err := chain.Open(images)
	if err != nil {
		close()
		return nil, nil, nil, fmt.Errorf("%s: %w", links[len(links)-1].Path, err)
	}
	return opened, proven, close, nil
}

// chainFiles are the files of a chain and what their readers share.
type chainFiles struct {
	pool    *filePool
	readers *hashlist.Readers
}

func newChainFiles(ctx context.Context, o hashlist.ReadOptions) *chainFiles {
	return &chainFiles{newFilePool(o.Cached), hashlist.NewReaders(ctx, o)}
}

func (c *chainFiles) close() {
	c.pool.close()
	c.readers.Close()
}

// OpenImages returns readers of the images of links, in their order, as those of OpenChain;
// nothing is read yet.
func OpenImages(ctx context.Context, links []Link, o hashlist.ReadOptions) (readers []*Reader, close func()) {
	files := newChainFiles(ctx, o)
	for _, link := range links {
		readers = append(readers, files.open(link))
	}
	return readers, files.close
}

// OpenImage opens one image as OpenChain does.
func OpenImage(ctx context.Context, l Link, o hashlist.ReadOptions) (r *Reader, close func()) {
	files := newChainFiles(ctx, o)
	return files.open(l), files.close
}

// open returns a reader of the image of a link. Its files are opened when they are read.
func (c *chainFiles) open(l Link) *Reader {
	file := func(path string) hashlist.File {
		return hashlist.File{Name: nameOf(l.Point, l.Disk, filepath.Base(path)), ReaderAt: pooledPath{c.pool, path}}
	}
	return &Reader{c.readers.Open(file(l.Path), file(l.HashesPath()), listOf(l.Disk)), l}
}

// Reader reads the image of a link. Its errors say which point is damaged.
type Reader struct {
	*hashlist.Reader
	link Link
}

// ReadAt is that of io.ReaderAt. Damage is a *damage.Error.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.Reader.ReadAt(p, off)
	return n, r.damaged(err)
}

// Sums is that of hashlist.Reader. Damage is a *damage.Error.
func (r *Reader) Sums(to []hashlist.Sum, first, n int64) ([]hashlist.Sum, error) {
	sums, err := r.Reader.Sums(to, first, n)
	return sums, r.damaged(err)
}

// damaged names what an error says is damaged.
func (r *Reader) damaged(err error) error {
	var differs *hashlist.DamageError
	if errors.As(err, &differs) {
		m, d := r.link.Point, r.link.Disk
		err = damage.ErrorOf([]damage.Place{{Domain: m.Domain, Point: m.ID, File: filepath.Join(m.Domain, m.ID, d.Image),
			Disk: d.Target, Offset: differs.Offset, Length: differs.Length, What: differs.What, WholeDisk: true}})
	}
	return err
}

// CheckHeader compares the header of an image with its manifest: sizes, backing
// file, features. Damage is a *damage.Error.
func CheckHeader(l Link) error {
	if err := checkHeader(l.Path, l.Disk); err != nil {
		return damage.OfFile(l.Point, l.Disk.Image, err)
	}
	return nil
}

// Compressed tells whether the image may hold compressed clusters, by its header.
func Compressed(l Link) (bool, error) {
	h, err := readHeader(l.Path)
	if err != nil {
		return false, damage.OfFile(l.Point, l.Disk.Image, err)
	}
	return h.Incompatible&qcow2.IncompatibleCompression != 0, nil
}

func checkHeader(path string, d manifest.Disk) error {
	h, err := readHeader(path)
	if localfile.Unreadable(err) {
		h, err = readHeader(path)
	}
	if err != nil {
		return err
	}
	return compareHeader(path, h, d)
}

func readHeader(path string) (qcow2.Header, error) {
	f, err := localfile.OpenRegular(path)
	if err != nil {
		return qcow2.Header{}, err
	}
	defer f.Close()
	h, err := qcow2.ReadHeader(f)
	if err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return h, err
}

func compareHeader(path string, h qcow2.Header, d manifest.Disk) error {
	switch {
	case h.BackingFile != d.Parent:
		return fmt.Errorf("%s: backing file is %q, the manifest says %q", path, h.BackingFile, d.Parent)
	case d.Parent != "" && h.BackingFormat != "qcow2":
		return fmt.Errorf("%s: backing format is %q, not qcow2", path, h.BackingFormat)
	case h.VirtualSize != d.VirtualSize:
		return fmt.Errorf("%s: virtual size is %d bytes, the manifest says %d", path, h.VirtualSize, d.VirtualSize)
	case h.ExternalData():
		return fmt.Errorf("%s: its data is in another file", path)
	case h.Corrupt() || h.Dirty():
		return fmt.Errorf("%s: marked as corrupt or not closed: it was opened for writing since it was sealed", path)
	}
	return nil
}
