package repository

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/virtbackup/virtbackup/internal/filelock"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/lineage"
	"github.com/virtbackup/virtbackup/manifest"
)

// VerifiedName is the file, beside a domain's points, that says when they were
// last verified. It is information only, and may be deleted: nothing that it calls
// sound is trusted, and what it calls damaged is read again before a chain is continued.
const VerifiedName = "verified.json"

const verifiedTemporary = ".verified-"

// Verification is what the verifications of a point found.
type Verification struct {
	// Time is when the byte that was proven longest ago was, or when damage was found; UTC.
	Time time.Time `json:"time"`
	// Manifest is the digest of the manifest.json that was verified. Where the
	// point has another one now, this says nothing of it.
	Manifest string `json:"manifest"`
	Sound    bool   `json:"sound"` // the point restores, with all that it needs
	// Lost are the disks (their targets) of a point that does not; none where it is not
	// a disk that is damaged, or where an earlier version has written this.
	Lost []string `json:"lost,omitempty"`
	// Structure are the disks whose image is as it was written, but no valid qcow2: reading it takes
	// nothing back.
	Structure []string `json:"structure,omitempty"`
}

// verifiedFile is the content of verified.json.
type verifiedFile struct {
	Format int `json:"format"`
	// Points are those that are verified or damaged. Versions that know nothing of Proven take
	// them for all that is known.
	Points map[string]Verification `json:"points"`
	Proven map[string]provenPoint  `json:"proven,omitempty"`
}

// provenPoint says when parts of a point were proven, where not all were at the Time of its
// Verification.
type provenPoint struct {
	Manifest string            `json:"manifest"` // digest of the manifest.json
	Files    map[string]string `json:"files"`    // Dates, by the names of images and extras
}

// Verified returns what is known of a domain's points, by their ids. What does
// not belong to the points as they are now is left out; a file that cannot be
// read counts as an empty one.
func (r *Repository) Verified(domain string) map[string]Verification {
	l, err := r.Lineage(domain)
	if err != nil {
		return nil
	}
	return r.VerifiedOf(l)
}

// VerifiedOf is Verified for points that were read before, as they were then. It reads no
// manifest again.
func (r *Repository) VerifiedOf(l *lineage.Lineage) map[string]Verification {
	return r.Proofs(l).Verified()
}

// Doubts are the disks that the last verification found to be lost, by the points as they
// are now; empty where there are none.
func (r *Repository) Doubts(domain string) map[string][]string {
	doubts := map[string][]string{}
	for id, v := range r.readVerified(domain).Points {
		if v.Sound || len(v.Lost) == 0 {
			continue
		}
		if digest, err := r.ManifestDigest(domain, id); err == nil && digest == v.Manifest {
			doubts[id] = v.Lost
		}
	}
	return doubts
}

// ClearDoubts takes back that images of a disk are lost, in points of a domain: they were
// read since, and are sound. Whether the points restore whole the next verification says.
func (r *Repository) ClearDoubts(domain string, points []string, target string) error {
	doubted := func(f *verifiedFile) (ids []string) {
		for _, id := range points {
			if slices.Contains(f.Points[id].Lost, target) {
				ids = append(ids, id)
			}
		}
		return ids
	}
	if f := r.readVerified(domain); len(doubted(&f)) == 0 {
		return nil
	}
	return r.changeVerified(domain, func(f *verifiedFile) { // as it is then: a verification may have changed it
		for _, id := range doubted(f) {
			v := f.Points[id]
			v.Lost = slices.DeleteFunc(slices.Clone(v.Lost), func(t string) bool { return t == target })
			f.Points[id] = v
		}
	})
}

// ManifestDigest is the digest of a point's manifest.json as it is now.
func (r *Repository) ManifestDigest(domain, id string) (string, error) {
	if _, _, err := manifest.ParsePointID(id); err != nil {
		return "", err
	}
	return localfile.Digest(filepath.Join(r.PointDir(domain, id), manifest.FileName))
}

// readVerified returns an empty file if it cannot be read.
func (r *Repository) readVerified(domain string) verifiedFile {
	f, _ := r.tryReadVerified(domain)
	return f
}

// tryReadVerified is readVerified, with an error if the file may say something all the same: it
// cannot be read now, or storage does not return it. One that is missing, or is no such file,
// is an empty one.
func (r *Repository) tryReadVerified(domain string) (verifiedFile, error) {
	var f verifiedFile
	data, err := localfile.ReadSmall(filepath.Join(r.domainDir(domain), VerifiedName))
	if localfile.CannotCheck(err) || localfile.Unreadable(err) {
		return verifiedFile{}, err
	}
	if err != nil || json.Unmarshal(data, &f) != nil || manifest.CheckFormat(f.Format) != nil {
		return verifiedFile{}, nil
	}
	return f, nil
}

// SetVerified adds to what is known of a domain's points, and forgets those that
// are gone. What is sound was proven as a whole.
func (r *Repository) SetVerified(domain string, points map[string]Verification) error {
	return r.changeVerified(domain, func(f *verifiedFile) {
		for id, v := range points {
			f.Points[id] = v
			if v.Sound {
				delete(f.Proven, id)
			}
		}
	})
}

// RenewVerified notes that what was known of a point (zero: nothing) holds for the files that it
// has now, instead of those whose manifest.json had this digest. What a verification has noted of
// those meanwhile counts more: damage is renewed, and what is not sound any more is not called so.
func (r *Repository) RenewVerified(domain, id, digest string, was Verification) error {
	if was.Time.IsZero() && r.readVerified(domain).Points[id].Manifest != digest {
		return nil
	}
	now, err := r.ManifestDigest(domain, id)
	if err != nil {
		return err
	}
	return r.changeVerified(domain, func(f *verifiedFile) {
		v, noted := f.Points[id]
		noted = noted && v.Manifest == digest
		switch {
		case noted && !v.Sound:
		case !was.Time.IsZero() && (noted || !was.Sound):
			v = was
		default:
			return
		}
		v.Manifest = now
		f.Points[id] = v
		if v.Sound {
			delete(f.Proven, id)
		}
	})
}

// changeWait is how long a change of verified.json waits for another: each takes some
// milliseconds. After that, as on file systems without locks, one of the two may be lost.
const changeWait = 10 * time.Second

// changeVerified replaces the file of a domain at once, without what belongs to no point. change
// is called even if the file cannot be written. One that cannot be read is not replaced: what it
// says of damage would be lost.
func (r *Repository) changeVerified(domain string, change func(*verifiedFile)) (err error) {
	if err := manifest.ValidDomain(domain); err != nil {
		return err
	}
	dir, err := os.Open(r.domainDir(domain))
	if err == nil {
		defer func() { err = errors.Join(err, filelock.Close(dir)) }()
		_ = filelock.Wait(context.Background(), dir, filelock.Exclusive, changeWait)
	}
	f, unread := r.tryReadVerified(domain)
	f.Format = manifest.Format
	f.Points, f.Proven = present(r, domain, f.Points), present(r, domain, f.Proven)
	change(&f)
	f.Points, f.Proven = present(r, domain, f.Points), present(r, domain, f.Proven)
	if unread != nil {
		return fmt.Errorf("note verification: %w", unread)
	}
	if err := r.replaceVerified(domain, f); err != nil {
		return fmt.Errorf("note verification: %w", err)
	}
	return nil
}

// present are those of a map whose keys are points with a directory.
func present[T any](r *Repository, domain string, points map[string]T) map[string]T {
	there := map[string]T{}
	for id, v := range points {
		if _, _, err := manifest.ParsePointID(id); err != nil {
			continue
		}
		if _, err := os.Lstat(r.PointDir(domain, id)); !errors.Is(err, fs.ErrNotExist) {
			there[id] = v
		}
	}
	return there
}

// mostVerified is how long verified.json may get, far from what localfile.ReadSmall reads: a
// file that nobody reads would say nothing of damage, either. 100 parts of 10,000 images that
// all have dates of their own are beyond it.
const mostVerified = 8 << 20

func (r *Repository) replaceVerified(domain string, all verifiedFile) error {
	data, err := json.MarshalIndent(all, "", "  ")
	if err == nil && len(data) > mostVerified {
		all.Proven = nil
		data, err = json.MarshalIndent(all, "", "  ")
	}
	if err != nil {
		return err
	}
	dir := r.domainDir(domain)
	f, err := os.CreateTemp(dir, verifiedTemporary+"*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // no-op once renamed
	if err := localfile.Finish(f, append(data, '\n')); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), filepath.Join(dir, VerifiedName)); err != nil {
		return err
	}
	return localfile.SyncDir(dir)
}
