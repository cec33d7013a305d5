package repository

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
)

// CheckFile compares a small file of a point (domain.xml) with its digest in the
// manifest. Damage found is not an error.
func (r *Repository) CheckFile(m manifest.Manifest, name string) ([]damage.Place, error) {
	path := filepath.Join(r.PointDir(m.Domain, m.ID), name)
	d := damage.Place{Domain: m.Domain, Point: m.ID, File: filepath.Join(m.Domain, m.ID, name), Harmless: name != manifest.DomainXML}
	digest, err := localfile.Digest(path)
	switch {
	case err == nil && digest == m.Files[name]:
		return nil, nil
	case err == nil:
		d.What = "differs from what was written"
		if info, err := os.Lstat(path); err == nil {
			d.Length = info.Size()
		}
	case localfile.CannotCheck(err):
		return nil, err
	default:
		d.What = localfile.Reason(err)
	}
	return []damage.Place{d}, nil
}

// ReadFile returns a small file of a point, once it was compared with its digest in the
// manifest. Damage is a *damage.Error.
func (r *Repository) ReadFile(m manifest.Manifest, name string) ([]byte, error) {
	data, err := localfile.ReadSmall(filepath.Join(r.PointDir(m.Domain, m.ID), name))
	switch {
	case err != nil && localfile.CannotCheck(err):
		return nil, fmt.Errorf("read %s of %s: %w", name, m.ID, err)
	case err == nil && digest.Of(data) != m.Files[name]:
		return nil, damage.OfFile(m, name, fmt.Errorf("%s: differs from what was written", filepath.Join(m.Domain, m.ID, name)))
	case err == nil:
		return data, nil
	}
	return nil, damage.OfFile(m, name, fmt.Errorf("%s: %s", filepath.Join(m.Domain, m.ID, name), localfile.Reason(err)))
}
