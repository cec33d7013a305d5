package repository

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/manifest"
)

// replacementPrefix begins the name of a point's directory that is built anew:
// REPO/DOMAIN/.partial-merge-check7. After the exchange the old files are under it. It is
// never of use to a later run.
const replacementPrefix = partialPrefix + "merge-"

// Replacement is a listed point that is built anew from the images of a chain, to be
// exchanged with the one that is there. It shows the same disks.
type Replacement struct {
	*Partial
	old    manifest.Manifest
	digest string // of its manifest.json
}

// BeginReplacement makes the directory of a replacement of m, a point as the repository has
// it. The caller ends it with Exchange or Discard.
func (l *Lock) BeginReplacement(m manifest.Manifest) (*Replacement, error) {
	if err := l.check(); err != nil {
		return nil, fmt.Errorf("replace point %s: %w", m.ID, err)
	}
	old, err := l.lockedPoint(m.ID)
	if err != nil {
		return nil, fmt.Errorf("replace point %s: %w", m.ID, err)
	}
	digest, err := l.repo.ManifestDigest(l.domain, m.ID)
	if err != nil {
		return nil, fmt.Errorf("replace point %s: %w", m.ID, err)
	}
	dir := filepath.Join(l.dir(), replacementPrefix+m.ID)
	if err := os.Mkdir(dir, localfile.DirMode); err != nil {
		return nil, fmt.Errorf("replace point %s: %w", m.ID, err)
	}
	p := &Partial{lock: l, id: m.ID, identity: old.Identity, dir: dir, files: map[string]string{}, images: map[string]image{}}
	return &Replacement{p, old, digest}, nil
}

// KeepDisk takes over the image of a disk as it is: both files get another name (link(2)).
func (r *Replacement) KeepDisk(d manifest.Disk) error {
	for _, name := range []string{d.Image, d.HashesFile()} {
		if err := r.link(name); err != nil {
			return fmt.Errorf("keep disk %s of %s: %w", d.Target, r.id, err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.images[d.Target] = keptImage{finishedImage{d.Hashes, d.ImageBytes}, d}
	return nil
}

// KeepFiles takes over the small files of the point as they are.
func (r *Replacement) KeepFiles() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, digest := range r.old.Files {
		if err := r.link(name); err != nil {
			return fmt.Errorf("keep the files of %s: %w", r.id, err)
		}
		r.files[name] = digest
	}
	return nil
}

func (r *Replacement) link(name string) error {
	return os.Link(filepath.Join(r.lock.repo.PointDir(r.lock.domain, r.id), name), filepath.Join(r.dir, name))
}

// AddDisk adds an image and its hash list that are in the directory, complete and on stable
// storage: TARGET.qcow2 and TARGET.hashes.
func (r *Replacement) AddDisk(target, hashes string, size int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.images[target] = finishedImage{hashes, size}
}

// finishedImage is one that is complete.
type finishedImage struct {
	hashes string
	size   int64
}

func (f finishedImage) Finished() (digest string, size int64, ok bool) {
	return f.hashes, f.size, true
}

func (f finishedImage) Close() error { return nil }

// keptImage is one of the point as it was.
type keptImage struct {
	finishedImage
	disk manifest.Disk
}

// Complete puts the manifest and the directory on stable storage: all that Exchange does not
// do. Image, ImageBytes, Hashes and HashRange of new disks are filled in; the rest of m must
// be valid, and identity, time and checkpoint those of the point as it was.
func (r *Replacement) Complete(m manifest.Manifest) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done {
		return fmt.Errorf("replace point %s: it is closed", r.id)
	}
	if err := r.complete(m); err != nil {
		return fmt.Errorf("replace point %s: %w", r.id, err)
	}
	return nil
}

func (r *Replacement) complete(m manifest.Manifest) error {
	if m.Identity != r.old.Identity || !m.Time.Equal(r.old.Time) || m.Checkpoint != r.old.Checkpoint {
		return fmt.Errorf("the manifest is that of another instant")
	}
	disks, err := r.completeDisks(m.Disks)
	if err != nil {
		return err
	}
	for i, d := range disks {
		if kept, ok := r.images[d.Target].(keptImage); ok {
			disks[i] = kept.disk // its hash list may be one of other ranges
		}
	}
	m.Disks, m.Files = disks, r.files
	if err := m.Validate(); err != nil {
		return err
	}
	content, err := manifest.Encode(m)
	if err != nil {
		return err
	}
	for _, step := range []sealStep{
		{"write manifest", func() error { return localfile.Write(filepath.Join(r.dir, manifest.FileName), content) }},
		{"sync point", func() error { return localfile.SyncDir(r.dir) }},
	} {
		if err := fault.Around("merge: "+step.name, step.do); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}

// Exchange puts the replacement, once it is complete, in the place of the point, and removes
// the old files. The exchange is one step: the path of each image, opened with its chain,
// shows the same disk at every instant, to processes that know nothing of us too.
//
// Nobody reads the domain's points meanwhile; it waits at most that long for those who do,
// then the error is a *ReadersError. After an error the point is as it was, and the caller
// discards the replacement.
func (r *Replacement) Exchange(ctx context.Context, wait time.Duration) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done {
		return fmt.Errorf("replace point %s: it is closed", r.id)
	}
	err := r.lock.ExcludeReaders(ctx, wait, func() error {
		// What is exchanged must be what the replacement was made from.
		if digest, err := r.lock.repo.ManifestDigest(r.lock.domain, r.id); err != nil || digest != r.digest {
			return errors.Join(errors.New("the point has changed since"), err)
		}
		return panics.Catch(r.exchange)
	})
	if err != nil {
		return fmt.Errorf("replace point %s of domain %s: %w", r.id, r.lock.domain, err)
	}
	r.done = true
	return nil
}

// exchange makes the replacement durable, or takes it back.
func (r *Replacement) exchange() (err error) {
	place := r.lock.repo.PointDir(r.lock.domain, r.id)
	exchanged := false
	defer func() {
		if v := recover(); v != nil || err != nil {
			if exchanged {
				err = errors.Join(err, localfile.Exchange(r.dir, place))
			}
			if v != nil {
				panic(v)
			}
		}
	}()
	err = fault.Around("merge: exchange", func() error {
		if err := localfile.Exchange(r.dir, place); err != nil {
			return err
		}
		exchanged = true
		return nil
	})
	if err != nil {
		return err
	}
	return fault.Around("merge: sync domain", func() error { return localfile.SyncDir(r.lock.dir()) })
}

// RemoveOld removes the files that Exchange has put out of place.
func (r *Replacement) RemoveOld() error {
	return fault.Around("merge: remove old", func() error { return r.lock.RemoveLeftover(filepath.Base(r.dir)) })
}
