package repository

import (
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/fileid"
	"github.com/virtbackup/virtbackup/manifest"
)

// NotePlace notes where the repository is, and tells whether it was in another place
// before: moved, or copied with all its files. It tells so once. Where it is a
// copy, the original may go on issuing identities that this one does not know, and
// needs the checkpoints that both know; see Ledger.Inherited.
//
// The device is noted for people and not compared: its number changes with restarts and
// mounts.
func (r *Repository) NotePlace() (moved bool, err error) {
	now := placeOf(r.place)
	d, err := readDescription(r.dir)
	if err == nil && d.Format == manifest.Format && placeOf(d.Place) == now {
		return false, nil
	}
	if err == nil {
		err = changeDescription(r.dir, func(d *description) {
			moved = d.Format >= 2 && placeOf(d.Place) != now // format 1 did not note it
			d.Place = r.place
		})
	}
	if err != nil {
		return moved, fmt.Errorf("note the place of repository %s: %w", r.dir, err)
	}
	return moved, nil
}

// findPlace returns where a repository is; nil if that is unknown: on FUSE and
// SMB a directory may have another inode after each mount, and an unknown place is better
// than a repository that looks like a copy every night.
func findPlace(dir string) (*fileid.ID, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return nil, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	switch uint32(s.Type) {
	case unix.FUSE_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.SMB_SUPER_MAGIC:
		return nil, nil
	}
	id, err := fileid.Of(dir)
	return &id, err
}

// placeOf is what places are compared by; "" is an unknown one.
func placeOf(id *fileid.ID) string {
	if id == nil {
		return ""
	}
	return id.String()
}

// NewID gives a repository that is a copy a UUID of its own, so that what it makes in
// libvirt differs from what the original makes. Points keep the old one. It returns the
// repository under its new UUID.
func NewID(dir string) (*Repository, error) {
	r, err := Open(dir)
	if err != nil {
		return nil, err
	}
	err = changeDescription(r.dir, func(d *description) {
		d.FormerIDs = append(slices.Clone(d.FormerIDs), d.ID)
		d.ID, d.Place = newUUID(), r.place
	})
	if err != nil {
		return nil, fmt.Errorf("give repository %s a new id: %w", r.dir, err)
	}
	return Open(dir)
}

// IDs are the UUIDs that the repository has or had, the present one first.
func (r *Repository) IDs() []string { return append([]string{r.id}, r.formerIDs...) }
