package repository

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/qcow2"
)

// Link is one image of a chain.
type Link struct {
	Point manifest.Manifest
	Disk  manifest.Disk
	Path  string // of the image
}

// Links returns the images that a disk of a point needs, base first, the point's
// own image last. It follows the manifests and holds the header of each image
// against them, so that no backing file name in an image leads anywhere but to
// the parent that the manifest names. The error is ErrNoPoint or ErrNoDisk for
// what was asked for, a *DamagedError for what lies below; others say why that cannot be
// told: files may not be read by this user, or too many are open.
func (r *Repository) Links(domain, id, target string) ([]Link, error) {
	m, err := r.Point(domain, id)
	if err != nil {
		return nil, fmt.Errorf("chain of disk %s: %w", target, err)
	}
	d, ok := m.Disk(target)
	if !ok {
		return nil, fmt.Errorf("chain of disk %s of %s: %w", target, id, ErrNoDisk)
	}
	var links []Link
	// The loop ends: Validate lets a parent's number only go down.
	for {
		path := filepath.Join(r.PointDir(domain, m.ID), d.Image)
		if err := checkHeader(path, d); err != nil {
			return nil, damagedFile(m, d.Image, err)
		}
		links = append(links, Link{m, d, path})
		if d.Parent == "" {
			slices.Reverse(links)
			return links, nil
		}
		if m, d, err = r.parentOf(m, d); err != nil {
			return nil, err
		}
	}
}

// OpenChain opens the images of Links. All that is read of them, headers and
// tables included, was compared with their hash lists first, and those with the
// digests in the manifests: what is wrong when read again is a
// *DamagedError, what is as it was written, but no chain, a *qcow2.ChainError. Cancelling
// ctx stops readers that read much more than they were asked for: a whole image, because
// its list is damaged.
//
// Memory and open files are bounded whatever the number of links: what Readers share, and
// maxOpen files, besides what qcow2.Chain keeps of each image. Each link has the ranges
// that were proven, for CheckOptions. The caller closes the chain when nobody reads it any
// more.
func OpenChain(ctx context.Context, links []Link, o hashlist.ReadOptions) (_ *qcow2.Chain, proven []*hashlist.ProvenRanges, close func(), err error) {
	files := newChainFiles(ctx, o)
	var images []io.ReaderAt
	for _, link := range links {
		r := files.open(link)
		images, proven = append(images, r), append(proven, r.Proven())
	}
	chain, err := qcow2.OpenChain(images)
	if err != nil {
		files.close()
		return nil, nil, nil, fmt.Errorf("%s: %w", links[len(links)-1].Path, err)
	}
	return chain, proven, files.close, nil
}

// chainFiles are the files of a chain and what their readers share.
type chainFiles struct {
	pool    *filePool
	readers *hashlist.Readers
}

func newChainFiles(ctx context.Context, o hashlist.ReadOptions) *chainFiles {
	return &chainFiles{newFilePool(), hashlist.NewReaders(ctx, o)}
}

func (c *chainFiles) close() {
	c.pool.close()
	c.readers.Close()
}

// open returns a reader of the image of a link. Its files are opened when they are read.
func (c *chainFiles) open(l Link) *linkReader {
	file := func(name string) hashlist.File {
		return hashlist.File{Name: nameOf(l.Point, l.Disk, name), ReaderAt: pooledPath{c.pool, filepath.Join(filepath.Dir(l.Path), name)}}
	}
	return &linkReader{c.readers.Open(file(filepath.Base(l.Path)), file(l.Disk.HashesFile()), listOf(l.Disk)), l}
}

// linkReader reads the image of a link. Its errors say which point is damaged.
type linkReader struct {
	*hashlist.Reader
	link Link
}

// ReadAt is that of io.ReaderAt. Damage is a *DamagedError.
func (r *linkReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.Reader.ReadAt(p, off)
	var damage *hashlist.DamageError
	if errors.As(err, &damage) {
		m, d := r.link.Point, r.link.Disk
		err = DamagedBy([]Damage{{Domain: m.Domain, Point: m.ID, File: filepath.Join(m.Domain, m.ID, d.Image),
			Disk: d.Target, Offset: damage.Offset, Length: damage.Length, What: damage.What, WholeDisk: true}})
	}
	return n, err
}

// damagedFile is the error for a file that is not as it was sealed. err itself is
// returned where it says nothing of the file.
func damagedFile(m manifest.Manifest, name string, err error) error {
	if localfile.CannotCheck(err) {
		return err
	}
	return &DamagedError{Points: []DamagedPoint{{Domain: m.Domain, ID: m.ID, File: name, Err: err}}}
}

func (r *Repository) parentOf(m manifest.Manifest, d manifest.Disk) (manifest.Manifest, manifest.Disk, error) {
	id, _, err := d.ParentImage()
	if err != nil {
		return manifest.Manifest{}, manifest.Disk{}, damagedPoint(m.Domain, m.ID, err)
	}
	parent, err := r.readManifest(m.Domain, id)
	if err != nil {
		return manifest.Manifest{}, manifest.Disk{}, damagedPoint(m.Domain, id, fmt.Errorf("%s needs it: %w", m.ID, err))
	}
	pd, err := m.ParentDisk(d, parent)
	if err != nil {
		return manifest.Manifest{}, manifest.Disk{}, damagedPoint(m.Domain, id, err)
	}
	return parent, pd, nil
}

// checkHeader holds the header of an image against its manifest.
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
