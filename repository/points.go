package repository

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
)

// pointIDs lists what should be the points of a domain, in no order; none where the
// domain has no directory.
func (r *Repository) pointIDs(domain string) ([]string, error) {
	if err := manifest.ValidDomain(domain); err != nil {
		return nil, err
	}
	info, err := os.Lstat(r.domainDir(domain))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && !info.IsDir() { // a symbolic link may lead outside
		return nil, &damage.Error{Points: []damage.Point{{Domain: domain, Err: fmt.Errorf("%s is not a directory", r.domainDir(domain))}}}
	}
	entries, err := os.ReadDir(r.domainDir(domain))
	if err != nil {
		return nil, fmt.Errorf("list points: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if looksLikePoint(e) {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// looksLikePoint: every visible directory but that of pins should be a point, and whatever
// has a point's name should be a directory. Dot names are runs under way, or somebody
// else's.
func looksLikePoint(e fs.DirEntry) bool {
	if strings.HasPrefix(e.Name(), ".") || e.Name() == manifest.LostFound || e.Name() == PinsName {
		return false
	}
	_, _, err := manifest.ParsePointID(e.Name())
	return e.IsDir() || err == nil
}

// Point returns the manifest of one sealed point. The error is ErrNoPoint where
// there is no such directory, a *HiddenError where the point was removed, a *damage.Error
// where it cannot be read as one.
func (r *Repository) Point(domain, id string) (manifest.Manifest, error) {
	p, err := r.point(domain, id)
	if err == nil && p.hidden {
		err = &HiddenError{domain, id, p.removal}
	}
	if err != nil {
		return manifest.Manifest{}, err
	}
	return p.Manifest, nil
}

// point is Point for those that may be hidden.
func (r *Repository) point(domain, id string) (found, error) {
	if err := manifest.ValidDomain(domain); err != nil {
		return found{}, err
	}
	if _, _, err := manifest.ParsePointID(id); err != nil {
		return found{}, fmt.Errorf("%w: %w", manifest.ErrNoPoint, err)
	}
	p, err := r.readPoint(domain, id)
	if err != nil && r.isGone(domain, id) { // perhaps a moment ago
		return found{}, fmt.Errorf("%w: %s of domain %s", manifest.ErrNoPoint, id, domain)
	}
	if err != nil {
		return found{}, damage.OfPoint(domain, id, err)
	}
	return p, nil
}

// isGone tells whether there is nothing of a point's name.
func (r *Repository) isGone(domain, id string) bool {
	_, err := os.Lstat(r.PointDir(domain, id))
	return errors.Is(err, fs.ErrNotExist)
}

// readManifest reads the manifest of a directory and checks that it belongs there.
func (r *Repository) readManifest(domain, id string) (manifest.Manifest, error) {
	m, _, err := r.readManifestFile(domain, id)
	return m, err
}

// readManifestFile is readManifest that returns the digest of the file, too.
func (r *Repository) readManifestFile(domain, id string) (manifest.Manifest, string, error) {
	if _, _, err := manifest.ParsePointID(id); err != nil {
		return manifest.Manifest{}, "", err
	}
	dir := r.PointDir(domain, id)
	for _, dir := range []string{r.domainDir(domain), dir} {
		info, err := os.Lstat(dir)
		if err != nil {
			return manifest.Manifest{}, "", err
		}
		if !info.IsDir() { // a symbolic link may lead outside
			return manifest.Manifest{}, "", fmt.Errorf("%s is not a directory", dir)
		}
	}
	data, err := localfile.ReadSmall(filepath.Join(dir, manifest.FileName))
	if err != nil {
		return manifest.Manifest{}, "", err
	}
	m, err := manifest.Parse(data)
	if err != nil {
		return manifest.Manifest{}, "", fmt.Errorf("%s: %w", manifest.FileName, err)
	}
	if m.ID != id || m.Domain != domain {
		return manifest.Manifest{}, "", fmt.Errorf("%s: is that of %s of domain %s: moved or renamed by hand", manifest.FileName, m.ID, m.Domain)
	}
	return m, digest.Of(data), nil
}
