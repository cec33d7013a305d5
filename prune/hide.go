package prune

import (
	"context"
	"errors"
	"slices"

	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/lineage"
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
		err := r.hideOne(p)
		if localfile.IsFull(err) && !freed {
			freed = true
			if err := r.makeRoom(ctx, s, points); err != nil {
				return err
			}
			err = r.hideOne(p)
			var hidden *lineage.HiddenError
			if errors.As(err, &hidden) { // the first error came when the note was there already
				err = nil
			}
		}
		if err != nil {
			return err
		}
		r.result.Hidden = append(r.result.Hidden, p.ID)
		r.Log.Info("removed point " + p.ID)
	}
	return nil
}

func (r *run) hideOne(p Point) error {
	if slices.Contains(r.result.Deleted, p.ID) {
		return nil
	}
	return r.lock.Hide(p.ID, p.Reasons[0])
}

// makeRoom deletes the points to be hidden, and those that are, that no other needs.
func (r *run) makeRoom(ctx context.Context, s state, points []Point) error {
	ids := s.without(points).unneeded()
	if len(ids) == 0 {
		return nil
	}
	return r.delete(ctx, ids)
}
