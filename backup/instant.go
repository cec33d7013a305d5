package backup

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/virtbackup/virtbackup/backup/plan"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/source"
)

// awaitIdle waits, before anything is planned, until no other job runs on the domain or
// on the disks to be copied.
func (r *run) awaitIdle(ctx context.Context) (err error) {
	r.seen, err = r.source.AwaitIdle(ctx, r.Wanted.Targets(r.seen.Disks))
	return r.hintIfIncomplete(err)
}

func (r *run) awaitStillIdle(ctx context.Context) error {
	return r.source.StillIdle(ctx, r.plan.Targets())
}

func (r *run) prepare(context.Context) error { return r.source.Prepare(r.job()) }

// cleanUp undoes prepare.
func (r *run) cleanUp(ctx context.Context) error {
	if r.source == nil {
		return nil
	}
	return r.source.Cleanup(ctx)
}

func (r *run) freeze(ctx context.Context) error { return r.source.Freeze(ctx) }

func (r *run) thaw(ctx context.Context) error {
	if r.source == nil {
		return nil
	}
	return r.source.Thaw(ctx)
}

// begin begins the job: the instant of the point.
func (r *run) begin(ctx context.Context) error {
	begun, err := r.source.Begin(ctx)
	if err != nil {
		return err
	}
	r.point.Time = begun.Time // nearer to the instant than now
	if r.Now != nil {
		r.point.Time = r.now()
	}
	r.point.Consistency = manifest.ConsistencyCrash
	if begun.Quiesced {
		r.point.Consistency = manifest.ConsistencyFilesystem
	}
	if begun.NotQuiesced != "" {
		r.noteCrash(begun.NotQuiesced)
	}
	covered := false
	for i := range r.plan.Disks {
		d := &r.plan.Disks[i]
		d.Bitmap = d.Bitmap && begun.Refused[d.Target] == nil
		covered = covered || d.Bitmap
	}
	if !covered {
		r.plan.Checkpoint = ""
	}
	return nil
}

func (r *run) job() source.Job {
	job := source.Job{Instant: r.instant, Checkpoint: r.plan.Checkpoint}
	for _, d := range r.plan.Disks {
		job.Disks = append(job.Disks, source.JobDisk{Target: d.Target, Since: d.Since, DirtyFrom: d.BaseSize, Bitmap: d.Bitmap})
	}
	for _, l := range r.plan.LeftOut {
		job.LeftOut = append(job.LeftOut, l.Target)
	}
	return job
}

func (r *run) abandon(ctx context.Context) error {
	if r.source == nil {
		return nil
	}
	return r.source.Abandon(ctx, r.sealed, r.hung)
}

func (r *run) end(ctx context.Context) error { return r.source.End(ctx) }

func (r *run) openDisk(ctx context.Context, d plan.Disk) (source.Export, error) {
	return r.source.Open(ctx, d.Target, d.Incremental)
}

// noteCrash notes why the point is only crash consistent. If the previous point is, too,
// only --verbose shows the note.
func (r *run) noteCrash(why string) {
	level := slog.LevelInfo
	if n := len(r.points); n > 0 && r.points[n-1].Consistency == manifest.ConsistencyCrash {
		level = slog.LevelDebug
	}
	r.noteAt(level, fmt.Sprintf("the point is crash consistent: %s", why))
}
