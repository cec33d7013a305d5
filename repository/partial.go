package repository

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/virtbackup/virtbackup/diskimage"
	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/pointfile"
)

const partialPrefix = ".partial-"

// Partial is a point that is being made: a directory that nothing lists. Its methods
// are safe for concurrent use.
type Partial struct {
	*pointfile.Set // the files that are neither images nor hash lists

	lock     *Lock
	id       string
	identity string
	dir      string

	mu     sync.Mutex
	done   bool             // sealed or discarded
	images map[string]image // by target
}

// image is one that is being written, or is there; *diskimage.Image is one.
type image interface {
	// Finished returns the digest of the hash list and the length of the image in bytes. ok is
	// false until both files are complete and on stable storage.
	Finished() (digest string, size int64, ok bool)
	Close() error
}

// Begin makes the directory of a new point, whose identity was issued before (Issue).
// The caller ends it with Seal or Discard. A point of this id must not exist, and no
// leftover of it.
func (l *Lock) Begin(id, identity string) (*Partial, error) {
	if err := l.check(); err != nil {
		return nil, fmt.Errorf("begin point %q: %w", id, err)
	}
	if _, _, err := manifest.ParsePointID(id); err != nil {
		return nil, fmt.Errorf("begin point: %w", err)
	}
	sealed := l.repo.PointDir(l.domain, id)
	if _, err := os.Lstat(sealed); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("begin point %s: %w", id, &fs.PathError{Op: "mkdir", Path: sealed, Err: fs.ErrExist})
	}
	dir := filepath.Join(l.repo.domainDir(l.domain), partialPrefix+id)
	if err := os.Mkdir(dir, localfile.DirMode); err != nil {
		return nil, fmt.Errorf("begin point %s: %w", id, err)
	}
	return &Partial{lock: l, id: id, identity: identity, dir: dir, Set: pointfile.NewSet(id, dir), images: map[string]image{}}, nil
}

// ID is the id that the point will have.
func (p *Partial) ID() string { return p.id }

// Dir is the directory until Seal renames it. Backing file names such as
// ../check1/vda.qcow2 hold in it as they do after.
func (p *Partial) Dir() string { return p.dir }

// CreateImage makes TARGET.qcow2 and its hash list. Seal wants every image
// finished; Discard closes and removes those that are not.
func (p *Partial) CreateImage(target string, direct directio.Mode) (*diskimage.Image, error) {
	if err := manifest.ValidName(target); err != nil {
		return nil, fmt.Errorf("create image: disk: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done {
		return nil, fmt.Errorf("create image of %s: point %s is closed", target, p.id)
	}
	im, err := diskimage.Create(filepath.Join(p.dir, target), direct)
	if err != nil {
		return nil, fmt.Errorf("create image of %s: %w", target, err)
	}
	p.images[target] = im
	return im, nil
}

// sealStep is one step of Seal; if the process dies between any two, the point
// is either listed and whole, or not listed.
type sealStep struct {
	name string
	do   func() error
}

// sealSteps is the order in which a point becomes durable and then listed:
//
//  1. Image.Finish has put images and hash lists on stable storage, and
//     WriteFile the small files. Images first: they take minutes, and nothing
//     may name them before they are whole.
//  2. The manifest, last of the files: a directory with a valid manifest has
//     everything that the manifest names.
//  3. fsync of .partial-ID: the names of all these files are durable.
//  4. fsync of REPO: the entry of DOMAIN is durable; a run before this one may
//     have made it and died.
//  5. The rename of .partial-ID to ID, the commit point. It comes after 1 to 4,
//     so that a power cut cannot leave a listed point with a file missing.
//  6. fsync of DOMAIN: the rename is durable. Only now may the run count on the
//     point, and drop what it needed to make it again.
func (p *Partial) sealSteps(content []byte) []sealStep {
	repo, domain := p.lock.repo, p.lock.domain
	sealed := repo.PointDir(domain, p.id)
	return []sealStep{
		{"write manifest", func() error { return localfile.Write(filepath.Join(p.dir, manifest.FileName), content) }},
		{"sync point", func() error { return localfile.SyncDir(p.dir) }},
		{"sync repository", func() error { return localfile.SyncDir(repo.dir) }},
		{"rename point", func() error { return localfile.RenameExclusive(p.dir, sealed) }},
		{"sync domain", func() error { return localfile.SyncDir(repo.domainDir(domain)) }},
	}
}

// Seal makes the point durable and lists it. Format, Repository, Identity, ParentTime,
// ParentIdentity and Files of the manifest, and Image, ImageBytes, Hashes and HashRange
// of its disks, are filled in
// from what was written; the rest must be valid. After an error nothing is
// listed and the caller discards the point.
func (p *Partial) Seal(m manifest.Manifest) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done {
		return fmt.Errorf("seal point %s: it is closed", p.id)
	}
	if err := p.lock.check(); err != nil {
		return fmt.Errorf("seal point %s: %w", p.id, err)
	}
	manifest, err := p.completeManifest(m)
	if err != nil {
		return fmt.Errorf("seal point %s: %w", p.id, err)
	}
	for _, step := range p.sealSteps(manifest) {
		// A panic behind the rename takes it back, too.
		err := panics.Catch(func() error { return fault.Around("seal: "+step.name, step.do) })
		if err != nil {
			return fmt.Errorf("seal point %s: %s: %w", p.id, step.name, errors.Join(err, p.unseal()))
		}
	}
	p.end()
	return nil
}

// end keeps anything from being added.
func (p *Partial) end() {
	p.done = true
	p.Close()
}

// unseal takes the rename back after the fsync that follows it failed: whether
// the point would outlive a power cut is unknown, and a failed run lists
// nothing. That is durable, too, or a power cut would list a point whose files Discard has
// removed; where it fails the next run removes them.
func (p *Partial) unseal() error {
	if _, err := os.Lstat(p.dir); !errors.Is(err, fs.ErrNotExist) {
		return nil // not renamed yet
	}
	err := localfile.RenameExclusive(p.lock.repo.PointDir(p.lock.domain, p.id), p.dir)
	if err == nil {
		err = localfile.SyncDir(p.lock.dir())
	}
	p.done = err != nil // nothing is discarded
	return err
}

func (p *Partial) completeManifest(m manifest.Manifest) ([]byte, error) {
	if m.ID != p.id || m.Domain != p.lock.domain {
		return nil, fmt.Errorf("the manifest is that of %s of domain %s", m.ID, m.Domain)
	}
	m.Format = manifest.Format
	m.Repository = p.lock.repo.id
	m.Identity = p.identity
	m.Files = p.Digests()
	if m.Parent != "" && m.ParentTime.IsZero() {
		parent, err := p.lock.repo.readManifest(m.Domain, m.Parent)
		if err != nil {
			return nil, fmt.Errorf("parent: %w", err)
		}
		m.ParentTime, m.ParentIdentity = parent.Time, parent.Identity
	}
	disks, err := p.completeDisks(m.Disks)
	if err != nil {
		return nil, err
	}
	m.Disks = disks
	if err := m.Validate(); err != nil {
		return nil, err
	}
	return manifest.Encode(m)
}

func (p *Partial) completeDisks(disks []manifest.Disk) ([]manifest.Disk, error) {
	complete := make([]manifest.Disk, 0, len(disks))
	for _, d := range disks {
		im := p.images[d.Target]
		if im == nil {
			return nil, fmt.Errorf("disk %q has no image", d.Target)
		}
		hashes, size, ok := im.Finished()
		if !ok {
			return nil, fmt.Errorf("the image of disk %q is not finished", d.Target)
		}
		d.Image, d.ImageBytes, d.Hashes, d.HashRange = d.Target+manifest.ImageSuffix, size, hashes, hashlist.RangeLength
		complete = append(complete, d)
	}
	if len(disks) != len(p.images) {
		return nil, fmt.Errorf("%d images were made, the manifest has %d disks", len(p.images), len(disks))
	}
	return complete, nil
}

// Discard removes the point with all its files. It does nothing after Seal or
// an earlier Discard, so that callers can defer it. No write to its
// images may be under way.
func (p *Partial) Discard() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done {
		return nil
	}
	for _, im := range p.images {
		im.Close() // the files go; an error here would tell nothing
	}
	if err := os.RemoveAll(p.dir); err != nil {
		return fmt.Errorf("discard point %s: %w", p.id, err)
	}
	p.end()
	return nil
}
