package backup

import (
	"context"

	"github.com/virtbackup/virtbackup/internal/fault"
)

// doStep does a step; tests break the run before and after it.
func (r *run) doStep(ctx context.Context, s step) error {
	if err := r.fault("step " + s.name + " before"); err != nil {
		return err
	}
	if err := s.do(r, ctx); err != nil {
		return err
	}
	return r.fault("step " + s.name + " after")
}

// fault is a point between steps. Once the point is sealed no step fails any
// more, and no fault may pretend that one does.
func (r *run) fault(name string) error {
	err := fault.Point(name)
	if r.sealed {
		return nil
	}
	return err
}
