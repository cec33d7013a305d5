package repository

import (
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/pointfile"
)

// ReadFile returns a small file of a point, once it was compared with its digest in the
// manifest. Damage is a *damage.Error.
func (r *Repository) ReadFile(m manifest.Manifest, name string) ([]byte, error) {
	return pointfile.Read(r.PointDir(m.Domain, m.ID), m, name)
}
