package backup

import (
	"context"

	"github.com/virtbackup/virtbackup/internal/fault"
)

// doStep does a step. Tests inject faults before and after it.
func (r *run) doStep(ctx context.Context, s step) error {
	if err := r.fault("step " + s.name + " before"); err != nil {
		return err
	}
	if err := s.do(r, ctx); err != nil {
		return err
	}
	return r.fault("step " + s.name + " after")
}

// fault is where tests inject a fault between steps. Once the point is sealed no step can
// fail, so errors are ignored then.
func (r *run) fault(name string) error {
	err := fault.Point(name)
	if r.sealed {
		return nil
	}
	return err
}
