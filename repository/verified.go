package repository

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/lineage"
	"github.com/virtbackup/virtbackup/manifest"
)

// VerifiedName is the file, beside a domain's points, that says when they were
// last verified. It is information only, and may be deleted: nothing that it calls
// sound is trusted, and what it calls damaged is read again before a chain is continued.
const VerifiedName = "verified.json"

const verifiedTemporary = ".verified-"

// Verification is what the last verification of a point found.
type Verification struct {
	Time time.Time `json:"time"` // when it ended, UTC
	// Manifest is the digest of the manifest.json that was verified. Where the
	// point has another one now, this says nothing of it.
	Manifest string `json:"manifest"`
	Sound    bool   `json:"sound"` // the point restores, with all that it needs
	// Lost are the disks (their targets) of a point that does not; none where it is not
	// a disk that is damaged, or where an earlier version has written this.
	Lost []string `json:"lost,omitempty"`
}

// verifiedFile is the content of verified.json.
type verifiedFile struct {
	Format int                     `json:"format"`
	Points map[string]Verification `json:"points"`
}

// Verified returns what is known of a domain's points, by their ids. What does
// not belong to the points as they are now is left out; a file that cannot be
// read counts as an empty one.
func (r *Repository) Verified(domain string) map[string]Verification {
	valid := map[string]Verification{}
	for id, v := range r.readVerified(domain) {
		if digest, err := r.ManifestDigest(domain, id); err == nil && digest == v.Manifest {
			valid[id] = v
		}
	}
	return valid
}

// VerifiedOf is Verified for points that were read before, as they were then. It reads no
// manifest again.
func (r *Repository) VerifiedOf(l *lineage.Lineage) map[string]Verification {
	valid := r.readVerified(l.Domain)
	maps.DeleteFunc(valid, func(id string, v Verification) bool {
		digest, known := l.Digest(id)
		return !known || v.Manifest != digest
	})
	return valid
}

// Doubts are the disks that the last verification found to be lost, by the points as they
// are now; empty where there are none.
func (r *Repository) Doubts(domain string) map[string][]string {
	doubts := map[string][]string{}
	for id, v := range r.readVerified(domain) {
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
	all := r.readVerified(domain)
	cleared := map[string]Verification{}
	for _, id := range points {
		if v, ok := all[id]; ok && slices.Contains(v.Lost, target) {
			v.Lost = slices.DeleteFunc(slices.Clone(v.Lost), func(t string) bool { return t == target })
			cleared[id] = v
		}
	}
	if len(cleared) == 0 {
		return nil
	}
	return r.SetVerified(domain, cleared)
}

// ManifestDigest is the digest of a point's manifest.json as it is now.
func (r *Repository) ManifestDigest(domain, id string) (string, error) {
	if _, _, err := manifest.ParsePointID(id); err != nil {
		return "", err
	}
	return localfile.Digest(filepath.Join(r.PointDir(domain, id), manifest.FileName))
}

func (r *Repository) readVerified(domain string) map[string]Verification {
	data, err := localfile.ReadSmall(filepath.Join(r.domainDir(domain), VerifiedName))
	if err != nil {
		return nil
	}
	var f verifiedFile
	if json.Unmarshal(data, &f) != nil || manifest.CheckFormat(f.Format) != nil {
		return nil
	}
	return f.Points
}

// SetVerified adds to what is known of a domain's points, and forgets those that
// are gone. The file is replaced at once; of two calls at the same time one may
// be lost.
func (r *Repository) SetVerified(domain string, points map[string]Verification) error {
	if err := manifest.ValidDomain(domain); err != nil {
		return err
	}
	all := verifiedFile{Format: manifest.Format, Points: map[string]Verification{}}
	for _, some := range []map[string]Verification{r.readVerified(domain), points} {
		for id, v := range some {
			if _, _, err := manifest.ParsePointID(id); err != nil {
				continue
			}
			if _, err := os.Lstat(r.PointDir(domain, id)); !errors.Is(err, fs.ErrNotExist) {
				all.Points[id] = v
			}
		}
	}
	if err := r.replaceVerified(domain, all); err != nil {
		return fmt.Errorf("note verification: %w", err)
	}
	return nil
}

func (r *Repository) replaceVerified(domain string, all verifiedFile) error {
	data, err := json.MarshalIndent(all, "", "  ")
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
