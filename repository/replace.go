package repository

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/lineage"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/pointfile"
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
	hidden bool   // it was removed, and stays so
	digest string // of its manifest.json
	// complete is the digest of the manifest.json here, once it is written.
	complete string
}

// BeginReplacement makes the directory of a replacement of m, a point as the repository has
// it, listed or hidden. The caller ends it with Exchange or Discard. The error is a *ProtectedError where the
// point is pinned: nothing is pinned while this process has the domain's lock.
func (l *Lock) BeginReplacement(m manifest.Manifest) (*Replacement, error) {
	r, err := l.beginReplacement(m)
	if err != nil {
		return nil, fmt.Errorf("replace point %s: %w", m.ID, err)
	}
	return r, nil
}

func (l *Lock) beginReplacement(m manifest.Manifest) (*Replacement, error) {
	old, hidden, err := l.anyPoint(m.ID)
	if err != nil {
		return nil, err
	}
	if changed, err := differ(m, old); err != nil || changed {
		return nil, errors.Join(errChanged, err)
	}
	pinned, err := l.repo.Pinned(l.domain)
	if err != nil {
		return nil, err
	}
	if by := pinned(m.ID); by != "" {
		return nil, pinnedError(l.domain, m.ID, by)
	}
	sum, err := l.repo.ManifestDigest(l.domain, m.ID)
	if err == nil {
		err = l.repo.raiseFormat()
	}
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(l.dir(), replacementPrefix+m.ID)
	if err := os.Mkdir(dir, localfile.DirMode); err != nil {
		return nil, err
	}
	p := &Partial{lock: l, id: m.ID, identity: old.Identity, dir: dir, Set: pointfile.NewSet(m.ID, dir), images: map[string]image{}}
	return &Replacement{Partial: p, old: old, hidden: hidden, digest: sum}, nil
}

// anyPoint is lockedPoint for a point that may be hidden.
func (l *Lock) anyPoint(id string) (m manifest.Manifest, hidden bool, err error) {
	m, err = l.lockedPoint(id)
	var removed *lineage.HiddenError
	if !errors.As(err, &removed) {
		return m, false, err
	}
	p, err := lineage.ReadPoint(l.dir(), id)
	return p.Manifest, p.Hidden, err
}

var errChanged = errors.New("the point has changed since")

// differ compares all that two manifests say.
func differ(a, b manifest.Manifest) (bool, error) {
	dataA, errA := manifest.Encode(a)
	dataB, errB := manifest.Encode(b)
	return !bytes.Equal(dataA, dataB), errors.Join(errA, errB)
}

// KeepDisk takes over the image of a disk as it is: both files get another name (link(2)).
func (r *Replacement) KeepDisk(d manifest.Disk) error {
	if have, _ := r.old.Disk(d.Target); !reflect.DeepEqual(have, d) {
		return fmt.Errorf("keep disk %q of %s: it is not the point's", d.Target, r.id)
	}
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

// KeepFiles takes over the small files of the point as they are, and files that somebody else
// has put beside them. It is an error if there is anything else.
func (r *Replacement) KeepFiles() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, digest := range r.old.Files {
		if err := r.link(name); err != nil {
			return fmt.Errorf("keep the files of %s: %w", r.id, err)
		}
		r.Note(name, digest)
	}
	return r.keepOthers()
}

// keepOthers takes over what is neither named by the manifest nor the manifest.
func (r *Replacement) keepOthers() error {
	dir := r.lock.repo.PointDir(r.lock.domain, r.id)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("keep the files of %s: %w", r.id, err)
	}
	ours := map[string]bool{manifest.FileName: true, lineage.RemovedName: !r.hidden, lineage.RemovedTemporary: true}
	for _, d := range r.old.Disks {
		ours[d.Image], ours[d.HashesFile()] = true, true
	}
	for name := range r.old.Files {
		ours[name] = true
	}
	for _, e := range entries {
		switch {
		case ours[e.Name()]:
			continue
		case !e.Type().IsRegular():
			return fail.Errorf(fail.Other, "move it away: it is not of virtbackup", "%s, which is not a file, is in the way of a merge", filepath.Join(dir, e.Name()))
		}
		if err := r.link(e.Name()); err != nil {
			return fmt.Errorf("keep the files of %s: %w", r.id, err)
		}
	}
	return nil
}

// keepModes gives the directory, and the files that were made, owner and mode of those that
// are there: who may read the point may go on.
func (r *Replacement) keepModes() error {
	old := r.lock.repo.PointDir(r.lock.domain, r.id)
	pairs := map[string]string{old: r.dir, filepath.Join(old, manifest.FileName): filepath.Join(r.dir, manifest.FileName)}
	for target, im := range r.images {
		if _, kept := im.(keptImage); kept {
			continue
		}
		for _, suffix := range []string{manifest.ImageSuffix, manifest.HashesSuffix} {
			pairs[filepath.Join(old, target+suffix)] = filepath.Join(r.dir, target+suffix)
		}
	}
	for from, to := range pairs {
		if err := localfile.CopyOwner(from, to); err != nil {
			return err
		}
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
// do. Image, ImageBytes, Hashes and HashRange of new disks are filled in, and what m says of
// its parent; the rest of m must be valid. What says which instant of which domain the point is
// must be as it was, and so must the disks, their sizes and the small files.
func (r *Replacement) Complete(m manifest.Manifest) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done {
		return fmt.Errorf("replace point %s: it is closed", r.id)
	}
	if err := r.finish(m); err != nil {
		return fmt.Errorf("replace point %s: %w", r.id, err)
	}
	return nil
}

func (r *Replacement) finish(m manifest.Manifest) error {
	disks, err := r.completeDisks(m.Disks)
	if err != nil {
		return err
	}
	for i, d := range disks {
		if kept, ok := r.images[d.Target].(keptImage); ok {
			disks[i] = kept.disk // its hash list may be one of other ranges
		}
	}
	m.Disks, m.Files = disks, r.Digests()
	if err := r.checkSame(m); err != nil {
		return err
	}
	if err := r.completeParent(&m); err != nil {
		return err
	}
	if err := m.Validate(); err != nil {
		return err
	}
	content, err := manifest.Encode(m)
	if err != nil {
		return err
	}
	for _, step := range []sealStep{
		{"write manifest", func() error { return localfile.Write(filepath.Join(r.dir, manifest.FileName), content) }},
		{"keep modes", r.keepModes},
		{"sync point", func() error { return localfile.SyncDir(r.dir) }},
	} {
		if err := fault.Around("merge: "+step.name, step.do); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	r.complete = digest.Of(content)
	return nil
}

// checkSame compares with the point as it was all that no merge changes.
func (r *Replacement) checkSame(m manifest.Manifest) error {
	type instant struct{ id, identity, checkpoint, domain, uuid, repository string }
	of := func(m manifest.Manifest) instant {
		return instant{m.ID, m.Identity, m.Checkpoint, m.Domain, m.DomainUUID, m.Repository}
	}
	if of(m) != of(r.old) || !m.Time.Equal(r.old.Time) || m.Format != r.old.Format {
		return errors.New("the manifest is that of another instant")
	}
	if !maps.Equal(m.Files, r.old.Files) {
		return errors.New("the small files are not those of the point")
	}
	if len(m.Disks) != len(r.old.Disks) {
		return fmt.Errorf("%d disks, the point has %d", len(m.Disks), len(r.old.Disks))
	}
	for _, old := range r.old.Disks {
		if d, ok := m.Disk(old.Target); !ok || d.VirtualSize != old.VirtualSize || d.Image != old.Image {
			return fmt.Errorf("disk %q is not as it was", old.Target)
		}
	}
	return nil
}

// completeParent fills in which point the parent is, and checks that it has the images that
// the disks are chained onto.
func (r *Replacement) completeParent(m *manifest.Manifest) error {
	m.ParentTime, m.ParentIdentity = time.Time{}, ""
	if m.Parent == "" {
		return nil
	}
	parent, err := r.lock.repo.readManifest(m.Domain, m.Parent)
	if err != nil {
		return fmt.Errorf("parent: %w", err)
	}
	m.ParentTime, m.ParentIdentity = parent.Time, parent.Identity
	for _, d := range m.Disks {
		if d.Parent == "" {
			continue
		}
		if _, err := m.ParentDisk(d, parent); err != nil {
			return fmt.Errorf("disk %q: %w", d.Target, err)
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
		if err := r.checkUnchanged(); err != nil {
			return err
		}
		return panics.Catch(func() error { return r.exchange(r.syncDomain) })
	})
	if err != nil {
		return fmt.Errorf("replace point %s of domain %s: %w", r.id, r.lock.domain, err)
	}
	r.end()
	return nil
}

// checkUnchanged: what is exchanged must be what the replacement was made from, listed or
// hidden as it was, and a replacement that is whole.
func (r *Replacement) checkUnchanged() error {
	here, err := localfile.Digest(filepath.Join(r.dir, manifest.FileName))
	if r.complete == "" || here != r.complete {
		return errors.Join(errors.New("it is not complete"), err)
	}
	if sum, err := r.lock.repo.ManifestDigest(r.lock.domain, r.id); err != nil || sum != r.digest {
		return errors.Join(errChanged, err)
	}
	_, hidden, err := r.lock.anyPoint(r.id)
	if err == nil && hidden != r.hidden {
		err = errChanged
	}
	return err
}

// exchange exchanges the two and makes that durable with sync, or takes it back.
func (r *Replacement) exchange(sync func() error) (err error) {
	place := r.lock.repo.PointDir(r.lock.domain, r.id)
	exchanged := false
	defer func() {
		if v := recover(); v != nil || err != nil {
			if exchanged {
				err = errors.Join(err, r.takeBack(place))
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
	return sync()
}

func (r *Replacement) syncDomain() error {
	return fault.Around("merge: sync domain", func() error { return localfile.SyncDir(r.lock.dir()) })
}

// takeBack takes an exchange back, durably: storage may have it already, and then the files that
// Discard removes would be those of the point. Where that fails the next run removes them.
func (r *Replacement) takeBack(place string) error {
	err := localfile.Exchange(r.dir, place)
	if err == nil {
		err = localfile.SyncDir(r.lock.dir())
	}
	r.done = err != nil // nothing is discarded
	return err
}

// RemoveOld removes the files that Exchange has put out of place.
func (r *Replacement) RemoveOld() error {
	return fault.Around("merge: remove old", func() error { return r.lock.removeAside(filepath.Base(r.dir)) })
}
