package recovery

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/localfile"
)

// Report is what a recovery found, and what it did.
type Report struct {
	Domain string `json:"domain"`
	DryRun bool   `json:"dry_run,omitempty"`
	// Fixed is what was cleaned up; in a dry run, what would be.
	Fixed []string `json:"fixed"`
	// Left is what could not be cleaned up yet, and why.
	Left []string `json:"left"`
	// Lost are checkpoints whose bitmaps are gone, and how that is known: their
	// points still restore, but their bitmaps cannot be a base any more.
	Lost []string `json:"lost"`
}

// finding is one thing that an earlier run left behind, and how to clean it up.
type finding struct {
	what  string
	later string // why that could not be done; "" if it could
	fix   func(context.Context) error
	// silent: it is not reported.
	silent bool
}

// laterError is why something cannot be cleaned up now. The recovery continues with the
// rest.
type laterError struct{ why string }

func (e *laterError) Error() string { return e.why }

// recoverer is one recovery.
type recoverer struct {
	*guest.LockedDomain
	log *slog.Logger
	// busy is set once libvirt has waited in vain for another job that holds the domain:
	// see ifNotRefused.
	busy *laterError
}

func newRecoverer(d *guest.LockedDomain) *recoverer {
	r := &recoverer{LockedDomain: d, log: d.Log}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	return r
}

// Look finds what there is to clean up, but changes nothing.
func Look(ctx context.Context, d *guest.LockedDomain) (Report, error) {
	return newRecoverer(d).look(ctx)
}

func (r *recoverer) look(ctx context.Context) (Report, error) {
	report := r.newReport()
	report.DryRun = true
	if err := r.Repo.CheckOwner(r.Lock.Domain(), r.Domain.UUID()); err != nil {
		return report, err
	}
	found, err := r.find(ctx)
	if err != nil {
		return report, fmt.Errorf("look for what an earlier run left: %w", err)
	}
	for _, f := range found {
		report.add(f)
	}
	missing, err := r.missing()
	if err != nil {
		return report, err
	}
	for _, m := range missing {
		report.add(finding{what: m.what() + ": to be defined again, if its bitmaps are still valid"})
	}
	return report, nil
}

func (r *recoverer) newReport() Report {
	return Report{Domain: r.Lock.Domain(), Fixed: []string{}, Left: []string{}, Lost: []string{}}
}

func (report *Report) add(f finding) {
	switch {
	case f.silent:
	case f.later != "":
		report.Left = append(report.Left, f.what+": "+f.later)
	default:
		report.Fixed = append(report.Fixed, f.what)
	}
}

// Recover cleans up after earlier runs of a domain that were killed, and redefines
// checkpoints that libvirt has lost. With again it also tries those that an earlier recovery
// found to be lost for good. An error ends it; the report has what was done until then, and
// another Recover continues.
func Recover(ctx context.Context, d *guest.LockedDomain, again bool) (Report, error) {
	return newRecoverer(d).recover(ctx, again)
}

func (r *recoverer) recover(ctx context.Context, again bool) (Report, error) {
	report := r.newReport()
	if err := r.Repo.CheckOwner(r.Lock.Domain(), r.Domain.UUID()); err != nil {
		return report, err
	}
	found, err := r.find(ctx)
	if err != nil {
		return report, fmt.Errorf("look for what an earlier run left: %w", err)
	}
	for _, f := range found {
		if err := r.fix(ctx, f, &report); err != nil {
			return report, fmt.Errorf("clean up after an earlier run: %s: %w", f.what, err)
		}
	}
	// Until format 2 this mark held what instants.json has now.
	if err := r.Lock.ClearMark("lost"); err != nil {
		return report, err
	}
	return report, r.redefine(again, &report)
}

func (r *recoverer) fix(ctx context.Context, f finding, report *Report) error {
	var later *laterError
	if f.later == "" {
		err := fault.Around("recover", func() error { return f.fix(ctx) })
		if err != nil && !errors.As(err, &later) {
			return err
		}
	}
	if later != nil {
		f.later = later.why
		r.log.Debug(f.what + ": " + f.later)
	}
	report.add(f)
	if f.later == "" && !f.silent {
		r.log.Info("cleaned up after an earlier run: " + f.what)
	}
	return nil
}

// find lists what is provably ours and belongs to no sealed point, in the order in which it
// must be cleaned up: the guest first, and the job before its checkpoint, which cannot be
// deleted while the job runs.
func (r *recoverer) find(ctx context.Context) ([]finding, error) {
	all, err := r.findGuest(ctx)
	if err != nil {
		return nil, err
	}
	for _, look := range []func() ([]finding, error){r.findCheckpoints, r.findPartials, r.findFiles, r.findForgotten} {
		some, err := look()
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

func (r *recoverer) findGuest(ctx context.Context) ([]finding, error) {
	left, err := r.FindLeftover(ctx)
	if err != nil {
		return nil, err
	}
	wake := func(context.Context) error { return notPausedAgain(left.Wake()) }
	end := func(ctx context.Context) error {
		if err := left.End(ctx); err != nil {
			return err
		}
		return wake(ctx)
	}
	var all []finding
	switch {
	case left.Job && left.Paused:
		all = append(all, finding{what: "a backup job, with the guest paused by an I/O error", fix: end})
	case left.Job:
		all = append(all, finding{what: "a backup job", fix: end})
	case left.WasPaused && left.Paused:
		all = append(all, finding{what: "the guest, paused by an I/O error", fix: wake})
	case left.WasPaused:
		all = append(all, finding{what: "a note that an I/O error had paused the guest", fix: wake})
	}
	if left.Frozen() {
		all = append(all, finding{what: "a freeze of the guest's file systems", fix: func(ctx context.Context) error { return laterIfSilent(ctx, left.Thaw(ctx)) }})
	}
	return all, nil
}

// notPausedAgain ignores that the guest has paused again: it would pause without us, too.
func notPausedAgain(err error) error {
	if errors.Is(err, guest.ErrPausedAgain) {
		return nil
	}
	return err
}

// laterIfSilent leaves the thaw to a later run if the agent does not answer.
func laterIfSilent(ctx context.Context, err error) error {
	var silent *guest.SilentError
	if errors.As(err, &silent) && ctx.Err() == nil {
		return &laterError{silent.Error()}
	}
	return err
}

func (r *recoverer) findCheckpoints() ([]finding, error) {
	checkpoints, err := r.Survey(false)
	if err != nil {
		return nil, err
	}
	ledger, err := r.Ledger()
	if err != nil {
		return nil, err
	}
	var all []finding
	for _, c := range checkpoints {
		what := "checkpoint " + c.Label()
		switch {
		case !c.Ours || c.Inherited || !r.MayRemove(ledger, c.Instant):
			continue
		case c.Instant.State == instants.Retired:
			what += ", which is retired"
		case c.Sealed:
			continue
		default: // its run was killed, or prune has removed the point
			what += ", which has no point"
		}
		all = append(all, finding{what: what, fix: func(context.Context) error {
			return r.ifNotRefused(func() error { return r.DeleteCheckpoint(c.Instant) })
		}})
	}
	return all, nil
}

// ifNotRefused calls do, which deletes checkpoints or bitmaps, or redefines a checkpoint. If
// libvirt or QEMU refuses that for now, the error is a *laterError: checkpoint and identity
// stay, and the next run tries again. libvirt waits 30 s for another job on the domain to
// end; if that has been in vain once, the remaining calls are not tried. If libvirt cannot be
// reached, or does not have the domain, nothing else can be done either, and the error is
// returned as it is.
func (r *recoverer) ifNotRefused(do func() error) error {
	if r.busy != nil {
		return r.busy
	}
	err := do()
	var refused *hypervisor.Error
	switch {
	case errors.Is(err, hypervisor.ErrUnreachable), errors.Is(err, hypervisor.ErrNoDomain):
		return err
	case !errors.As(err, &refused) && !errors.Is(err, hypervisor.ErrNotRunning):
		return err
	}
	next := "the next run does it"
	if errors.Is(err, hypervisor.ErrNotRunning) {
		next = "a run while the domain is up does it"
	}
	later := &laterError{err.Error() + "; " + next}
	if errors.Is(err, hypervisor.ErrBusy) {
		r.busy = later
	}
	return later
}

// findForgotten lists identities of which only the entry is left once the earlier fixes are
// done: their point was not sealed, or their checkpoint was retired. An entry of a sealed
// point stays, as its checkpoint may be redefined. These fixes come last because they write
// to the repository, and the earlier ones make room.
func (r *recoverer) findForgotten() ([]finding, error) {
	ledger, err := r.Ledger()
	if err != nil {
		return nil, err
	}
	var all []finding
	for _, i := range ledger.Issued {
		if !r.MayRemove(ledger, i) || i.Identity == r.Own || i.Checkpoint && ledger.Sealed(i) && i.State != instants.Retired {
			continue
		}
		all = append(all, finding{what: "the note of " + i.Point, fix: func(context.Context) error { return r.forgetInstant(i) }, silent: true})
	}
	return all, nil
}

// forgetInstant drops an identity, unless libvirt lists its checkpoint, or it is unknown
// for now whether there are bitmaps of it (*laterError) because another job holds the domain, or
// because its images cannot be looked at.
func (r *recoverer) forgetInstant(i instants.Instant) error {
	// A job of it that has appeared since would be nobody's without the identity.
	if _, job, err := r.OurJob(); err != nil || job {
		return errors.Join(err, &laterError{"its backup job has just begun; the next run ends it"})
	}
	if i.Checkpoint {
		if _, err := r.Domain.CheckpointXML(i.CheckpointName()); !errors.Is(err, hypervisor.ErrNoCheckpoint) {
			return err
		}
		if err := r.ifNotRefused(func() error { return r.DeleteOrphans(i) }); err != nil {
			return err
		}
	}
	return r.unlessFull(r.Lock.DropInstant(i.Identity))
}

// unlessFull ignores the error of a full repository: a later run writes what cannot be
// written now, and this one must continue to make room.
func (r *recoverer) unlessFull(err error) error {
	if localfile.IsFull(err) {
		r.log.Debug(err.Error())
		return nil
	}
	return err
}

func (r *recoverer) findPartials() ([]finding, error) {
	partials, err := r.Lock.Leftovers()
	if err != nil {
		return nil, err
	}
	var all []finding
	for _, name := range partials {
		all = append(all, finding{what: "the unfinished point " + name, fix: func(context.Context) error { return r.Lock.RemoveLeftover(name) }})
	}
	return all, nil
}

// findFiles lists our sockets and scratch files, and the temporary directories of servers
// that earlier versions compared disks with. Those of a job that runs are already removed
// when their turn comes.
func (r *recoverer) findFiles() ([]finding, error) {
	var all []finding
	ledger, err := r.Ledger()
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, dir := range []string{guest.RunDir(r.SocketDir), guest.RunDir(r.ScratchDir), os.TempDir()} {
		if seen[dir] {
			continue
		}
		seen[dir] = true
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if r.IsOurs(ledger, path) {
				all = append(all, finding{what: path, fix: func(context.Context) error { return os.RemoveAll(path) }})
			}
		}
	}
	return all, nil
}
