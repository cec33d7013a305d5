package repository

import (
	"fmt"
	"slices"

	"github.com/virtbackup/virtbackup/description"
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
	now := description.PlaceText(r.place)
	d, err := description.Read(r.dir)
	if err == nil && d.Format == manifest.Format && description.PlaceText(d.Place) == now {
		return false, nil
	}
	if err == nil {
		err = description.Change(r.dir, func(d *description.Description) {
			moved = d.Format >= 2 && description.PlaceText(d.Place) != now // format 1 did not note it
			d.Place = r.place
		})
	}
	if err != nil {
		return moved, fmt.Errorf("note the place of repository %s: %w", r.dir, err)
	}
	return moved, nil
}

// Place tells the repository from copies of it, which are in other directories. The device is not part of
// it: see NotePlace.
func (r *Repository) Place() string { return description.PlaceText(r.place) }

// NewID gives a repository that is a copy a UUID of its own, so that what it makes in
// libvirt differs from what the original makes. Points keep the old one. It returns the
// repository under its new UUID.
func NewID(dir string) (*Repository, error) {
	r, err := Open(dir)
	if err != nil {
		return nil, err
	}
	err = description.Change(r.dir, func(d *description.Description) {
		d.FormerIDs = append(slices.Clone(d.FormerIDs), d.ID)
		d.ID, d.Place = description.NewID(), r.place
	})
	if err != nil {
		return nil, fmt.Errorf("give repository %s a new id: %w", r.dir, err)
	}
	return Open(dir)
}

// IDs are the UUIDs that the repository has or had, the present one first.
func (r *Repository) IDs() []string { return append([]string{r.id}, r.formerIDs...) }

// raiseFormat makes a repository one of today's format, before files are written that older
// versions misread: hash lists of format 2 in points of format 1.
func (r *Repository) raiseFormat() error {
	d, err := description.Read(r.dir)
	if err != nil || d.Format >= manifest.Format {
		return err
	}
	_, err = r.NotePlace() // format 1 did not note it, so it cannot have moved
	return err
}
