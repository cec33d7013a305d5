package backup

import (
	"context"

	"github.com/virtbackup/virtbackup/guest/extras"
)

// takeExtras takes what the domain needs to start besides its disks: soon after the instant, and
// under the watch that protects the guest. What cannot be taken is a warning.
func (r *run) takeExtras(ctx context.Context) error {
	taken, err := extras.Take(ctx, extras.Request{
		Domain: r.domain.Domain, Point: r.partial, Earlier: r.points, First: r.plan.Base == nil, Moves: r.meter.Moves,
	})
	r.point.Extras, r.point.Autostart = taken.Extras, taken.Autostart
	for _, w := range taken.Warnings {
		r.warn("%s", w)
	}
	for _, n := range taken.Notes {
		r.note("%s", n)
	}
	return err
}
