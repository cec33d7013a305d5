package repository

import (
	"fmt"
	"os"
	"slices"

	"github.com/virtbackup/virtbackup/fileid"
)

// NotePlace notes where the repository is, and tells whether that was another place
// before: it was moved, or copied with all its files. That is said once. Where it is a
// copy, the original may go on issuing identities that this one does not know, and
// needs the checkpoints that both know; see Ledger.Inherited.
//
// The device is noted for people and not compared: its number changes with restarts and
// mounts.
func (r *Repository) NotePlace() (moved bool, err error) {
	d, err := readDescription(r.dir)
	if err != nil {
		return false, fmt.Errorf("note the place of repository %s: %w", r.dir, err)
	}
	if d.Format == Format && d.Place != nil && d.Place.String() == r.place.String() {
		return false, nil
	}
	moved = d.Place != nil && d.Place.String() != r.place.String()
	d.Format, d.Place = Format, &r.place
	if err := d.replace(r.dir); err != nil {
		return false, fmt.Errorf("note the place of repository %s: %w", r.dir, err)
	}
	return moved, nil
}

// Place is where the repository is.
func (r *Repository) Place() fileid.ID { return r.place }

// NewID gives a repository that is a copy a UUID of its own, so that what it makes in
// libvirt is told from what the original makes. Points keep theirs. It returns the
// repository under its new UUID.
func NewID(dir string) (*Repository, error) {
	r, err := Open(dir)
	if err != nil {
		return nil, err
	}
	d, err := readDescription(r.dir)
	if err != nil {
		return nil, fmt.Errorf("give repository %s a new id: %w", r.dir, err)
	}
	d.FormerIDs = append(slices.Clone(d.FormerIDs), d.ID)
	d.Format, d.ID, d.Place = Format, newUUID(), &r.place
	if err := d.replace(r.dir); err != nil {
		return nil, fmt.Errorf("give repository %s a new id: %w", r.dir, err)
	}
	return Open(dir)
}

// IDs are the UUIDs that the repository has or had, the present one first.
func (r *Repository) IDs() []string { return append([]string{r.id}, r.formerIDs...) }

// replace puts repository.json in the place of the one that is there.
func (d description) replace(dir string) error {
	if err := d.put(dir, os.Rename); err != nil {
		return err
	}
	return syncDir(dir)
}
