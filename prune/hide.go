package prune

import (
	"context"
	"errors"
	"slices"

	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/repository"
)

// hide hides points, oldest first. On a full file system there is no room for the note that
// a point is hidden: then those that nobody needs are deleted first, without one, as they
// would be next.
func (r *run) hide(ctx context.Context, s state, points []Point) error {
	freed := false
	for _, p := range points {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if r.isDeleted(p.ID) {
			continue
		}
		err := r.lock.Hide(p.ID, p.Reasons[0])
		if localfile.IsFull(err) && !freed {
			freed = true
			if err := r.makeRoom(ctx, s, points); err != nil {
				return err
			}
			if err = nil; !r.isDeleted(p.ID) {
				err = r.hideAgain(p)
			}
		}
		if err != nil {
			return err
		}
		r.Log.Info("hid point " + p.ID)
	}
	return nil
}

// hideAgain hides a point after an error, which may have come when the note was there already.
func (r *run) hideAgain(p Point) error {
	err := r.lock.Hide(p.ID, p.Reasons[0])
	var hidden *repository.HiddenError
	if errors.As(err, &hidden) {
		return nil
	}
	return err
}

// makeRoom deletes the points to be hidden, and those that are, that no other needs.
func (r *run) makeRoom(ctx context.Context, s state, points []Point) error {
	s = s.without(points)
	for {
		ids := s.unneeded()
		if len(ids) == 0 {
			return nil
		}
		if err := r.delete(ctx, ids); err != nil {
			return err
		}
		for _, id := range ids {
			s.gone[id] = true
		}
	}
}

func (r *run) isDeleted(id string) bool { return slices.Contains(r.result.Deleted, id) }
