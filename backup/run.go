// Package backup makes points: it plans a run and carries it out step by step.
//
//	find → open → lock → recover → idle → plan → parents → space → issue
//	     → reserve → directories → still idle → freeze → begin → thaw → tails
//	     → copy → end → seal → checkpoint → retire
//
// Each step that changes something outside of the process has its undo beside it. The
// undos run however the run ends.
package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/virtbackup/virtbackup/backup/meter"
	"github.com/virtbackup/virtbackup/backup/plan"
	"github.com/virtbackup/virtbackup/checkpoint"
	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/source"
	"github.com/virtbackup/virtbackup/xml"
)

// Deps are what a run works with.
type Deps struct {
	Host guest.Host
	// Repository is the directory of the repository. It is not opened yet, because a full
	// or copy may create it, but only if the domain exists.
	Repository string
	// Source returns the source of a locked domain's disks. warn may be called by several
	// goroutines.
	Source func(d *guest.LockedDomain, options source.Options, warn func(string)) Source
	// Off is Source for a domain that is shut off. nil refuses that.
	Off func(d *guest.LockedDomain, options source.Options, warn func(string)) Source
	// Now is the clock of the manifest: it says when the point's instant was and when the copy
	// was complete. nil means the host's. A test of many nights sets it; no timeout and no
	// other file depends on it.
	Now func() time.Time
}

// now is the time for the manifest.
func (d Deps) now() time.Time {
	if d.Now != nil {
		return d.Now().UTC()
	}
	return time.Now().UTC()
}

// run is one run: its request, what it works on, and how far it has come.
type run struct {
	Request
	Deps

	domain *guest.LockedDomain
	off    bool       // the domain is shut off
	seen   xml.Domain // the domain's XML
	repo   *repository.Repository
	lock   *repository.Lock
	source Source
	points []manifest.Manifest // the domain's earlier points
	// checkpoints are those of the domain when the plan was made, with sizes.
	checkpoints []checkpoint.Checkpoint
	plan        plan.Plan
	need        int64            // estimate of the bytes that the point will take
	doubtful    bool             // it may not fit: to be measured once the job shows its zeros
	instant     instants.Instant // of the point; zero before it is issued
	partial     *repository.Partial
	meter       meter.Meter // of the copy
	hung        bool        // the copy hangs: its goroutines still use partial
	left        bool        // an undo has failed: only this repository shows that what is left is ours
	sealed      bool
	point       manifest.Manifest
	warnMu      sync.Mutex // protects result.Warnings
	result      Result
}

// step is one step of a run. undo reverts what do changed, even if do failed half way. It
// also runs after success, and then reverts only what is not to be kept. It gets a context
// of its own.
type step struct {
	name string
	do   func(*run, context.Context) error
	undo func(*run, context.Context) error
}

// steps is the one list of what a run does, in order.
var steps = []step{
	{name: "find", do: (*run).find},
	{name: "open", do: (*run).open, undo: (*run).close},
	{name: "lock", do: (*run).takeLock, undo: (*run).releaseLock},
	{name: "recover", do: (*run).recover},
	{name: "idle", do: (*run).awaitIdle},
	{name: "plan", do: (*run).makePlan},
	{name: "parents", do: (*run).checkParents},
	{name: "space", do: (*run).checkSpace},
	{name: "issue", do: (*run).issue, undo: (*run).withdraw},
	{name: "reserve", do: (*run).reserve, undo: (*run).discard},
	{name: "directories", do: (*run).prepare, undo: (*run).cleanUp},
	{name: "still idle", do: (*run).awaitStillIdle},
	{name: "freeze", do: (*run).freeze, undo: (*run).thaw},
	{name: "begin", do: (*run).begin, undo: (*run).abandon},
	{name: "thaw", do: (*run).thaw},
	{name: "tails", do: (*run).checkTails},
	{name: "copy", do: (*run).copyWatched},
	{name: "end", do: (*run).end},
	{name: "seal", do: (*run).seal},
	{name: "checkpoint", do: (*run).afterSeal},
	{name: "retire", do: (*run).retire},
}

// Run makes a point of a domain in a repository. If it returns an error, the repository
// lists the same points and the domain has the same checkpoints as before; what could not
// be undone is part of the error. Cancelling ctx stops it.
//
// Errors: the kinds fail.Usage and fail.NotFound, hypervisor.ErrNoDomain, ErrNotRunning
// and ErrBusy, *repository.LockedError, *repository.OtherDomainError, and whatever
// libvirt, NBD or the file system reports.
func Run(ctx context.Context, deps Deps, request Request) (result Result, err error) {
	if err := request.Validate(); err != nil {
		return Result{}, err
	}
	start := time.Now()
	r := &run{Request: request.withDefaults(), Deps: deps}
	err = r.execute(ctx, steps)
	if errors.Is(err, source.ErrStarted) && !r.left && ctx.Err() == nil {
		r = r.again()
		r.Log.Info(fmt.Sprintf("domain %s has been started meanwhile: backing it up while it runs", r.Domain))
		err = r.execute(ctx, steps)
	}
	r.result.Point = r.point
	r.result.Seconds = time.Since(start).Seconds()
	return r.result, err
}

// again is the same run from its beginning, with what was said so far.
func (r *run) again() *run {
	return &run{Request: r.Request, Deps: r.Deps, result: Result{Recovered: r.result.Recovered, Notes: r.result.Notes, Warnings: r.result.Warnings}}
}

// execute does the steps, then runs the undos of those that it began, in reverse order.
// Once the point is sealed the run cannot fail any more: later errors are warnings, and
// signals are ignored.
func (r *run) execute(ctx context.Context, steps []step) (err error) {
	begun := 0
	defer func() { err = errors.Join(err, r.undo(ctx, steps[:begun])) }()
	for _, s := range steps {
		if ctx.Err() != nil && !r.sealed {
			return context.Cause(ctx)
		}
		r.Log.Debug("step " + s.name)
		begun++
		switch err := panics.Catch(func() error { return r.doStep(ctx, s) }); {
		case err != nil && r.sealed: // a panic; the exit code shows it
			r.warn("step %s: %v", s.name, err)
		case err != nil:
			return err
		}
	}
	return nil
}

// undo runs the undos of steps in reverse order, all of them even if one fails.
func (r *run) undo(ctx context.Context, steps []step) error {
	var errs []error
	for _, s := range slices.Backward(steps) {
		if s.undo == nil {
			continue
		}
		switch err := r.undoOne(ctx, s); {
		case err != nil && r.sealed:
			r.warn("clean up: %v", err)
		case err != nil:
			r.left = true
			errs = append(errs, fmt.Errorf("clean up: %w", err))
		}
	}
	return errors.Join(errs...)
}

// find looks the domain up, and chooses the source by whether it runs. If it does not exist,
// nothing is changed.
func (r *run) find(context.Context) error {
	domain, err := r.Host.Domain(r.Domain)
	if err != nil {
		return r.hintOfRename(err)
	}
	if err := manifest.ValidDomain(r.Domain); err != nil {
		return err
	}
	active, err := domain.Active()
	if err != nil {
		return err
	}
	if r.off = !active; r.off && r.Off == nil {
		return fmt.Errorf("back up domain %s: %w", r.Domain, hypervisor.ErrNotRunning)
	}
	r.domain = &guest.LockedDomain{Domain: domain, SocketDir: r.SocketDir, ScratchDir: r.ScratchDir, AgentTimeout: r.AgentTimeout, Log: r.Log}
	r.seen, err = guest.Describe(domain)
	return err
}

// open opens the repository. A full or copy makes one, if the directory above it exists.
// The other kinds, which may run every night, never do: if the repository's file system is
// not mounted, they would fill the one below the mount point.
func (r *run) open(context.Context) (err error) {
	r.repo, err = repository.Open(r.Repository)
	if !errors.Is(err, repository.ErrNotRepository) || r.Kind != manifest.KindFull && r.Kind != manifest.KindCopy {
		return err
	}
	above := filepath.Dir(filepath.Clean(r.Repository))
	if _, missing := os.Stat(above); errors.Is(missing, fs.ErrNotExist) {
		return fmt.Errorf("%w, nor does %s", err, above)
	}
	if r.repo, err = repository.Create(r.Repository); err == nil && r.repo.IsNew() && r.repo.OnRoot() {
		r.warn("made a repository in %s, on the root file system: if another one belongs there, mount it and run virtbackup init %s", r.repo.Dir(), manifest.ShellWord(r.repo.Dir()))
	}
	return err
}

// close undoes open: it removes a repository that this run has made and not used.
func (r *run) close(context.Context) error {
	if r.repo == nil || r.sealed || r.hung || r.left || r.source != nil && !r.source.Gone() {
		return nil
	}
	return r.repo.RemoveIfUnused()
}

// takeLock takes the domain's lock, and finds out whether the repository was moved or
// copied.
func (r *run) takeLock(context.Context) (err error) {
	if r.lock, err = r.repo.Lock(r.Domain); err != nil {
		return err
	}
	r.domain.Repo, r.domain.Lock = r.repo, r.lock
	of := r.Source
	if r.off {
		of = r.Off
	}
	r.source = of(r.domain, r.Options, r.warnOnce)
	moved, err := r.repo.NotePlace()
	if moved {
		r.warn("the repository is not where it was: it was moved, or it is a copy. Checkpoints from before are used and never deleted, "+
			"as the original may need them (virtbackup init --new-id %s gives a copy an id of its own)", manifest.ShellWord(r.repo.Dir()))
	}
	if err != nil { // not fatal: a full repository may have room after recovery
		r.warn("%v", err)
	}
	return nil
}

func (r *run) releaseLock(context.Context) error {
	if r.lock == nil || r.hung { // the kernel releases it when this process ends
		return nil
	}
	return r.lock.Unlock()
}

// makePlan gathers the state, and makes the plan from it.
func (r *run) makePlan(context.Context) error {
	if err := r.repo.CheckOwner(r.Domain, r.domain.Domain.UUID()); err != nil {
		return err
	}
	lineage, err := r.repo.Lineage(r.Domain)
	if err != nil {
		return err
	}
	points := lineage.Points
	var damaged *damage.Error
	if errors.As(lineage.Err(), &damaged) {
		if err := damaged.NotNow(); err != nil { // without its base an inc would be a full
			return err
		}
	}
	checkpoints, err := r.domain.Survey(true)
	if err != nil {
		return err
	}
	state := plan.State{Sizes: map[string]int64{}, Allocated: map[string]int64{},
		Images: map[string][]source.Image{}, Checkpoints: checkpoints, Points: points, Hidden: lineage.Hidden, Dir: filepath.Join(r.repo.Dir(), r.Domain), Now: time.Now(), Identity: manifest.NewIdentity()}
	if state.Next, err = r.lock.NextNumber(); err != nil {
		return err
	}
	if _, state.Damage, err = r.lock.Instants(); err != nil {
		return err
	}
	if state.Damage != nil {
		r.warn("%v: no checkpoint is known to be ours, so none is deleted", state.Damage)
	}
	if damaged != nil {
		for _, d := range damaged.Points {
			r.warn("%v", &damage.Error{Points: []damage.Point{d}})
		}
	}
	if err := r.warnOfRename(state); err != nil {
		return err
	}
	if err := r.inspectDisks(&state); err != nil {
		return err
	}
	r.plan, err = plan.Make(r.Wanted, state)
	if err != nil {
		return err
	}
	r.points, r.checkpoints = points, checkpoints
	r.announce()
	return nil
}

// announce logs the plan and adds its notes and warnings to the result.
func (r *run) announce() {
	p := &r.plan
	for _, n := range p.Notes {
		r.note("%s", n)
	}
	for _, w := range p.Warnings {
		r.warn("%s", w)
	}
	r.result.Why, r.result.Standalone = p.Why, p.Standalone
	since := ""
	if p.Base != nil {
		r.result.Base = *p.Base
		since = " since " + p.Base.ID
	}
	r.Log.Info(fmt.Sprintf("%s %s of domain %s%s", p.Kind, p.ID, r.Domain, since))
}

func (r *run) note(format string, args ...any) {
	r.noteAt(slog.LevelInfo, fmt.Sprintf(format, args...))
}

func (r *run) noteAt(level slog.Level, message string) {
	if slices.Contains(r.result.Notes, message) { // a second freeze repeats it
		return
	}
	r.result.Notes = append(r.result.Notes, message)
	r.Log.Log(context.Background(), level, message)
}

func (r *run) warn(format string, args ...any) {
	r.warnOnce(fmt.Sprintf(format, args...))
}

// warnOnce adds a warning unless it was added before. Goroutines that read the same images
// call it concurrently.
func (r *run) warnOnce(message string) {
	r.warnMu.Lock()
	defer r.warnMu.Unlock()
	if slices.Contains(r.result.Warnings, message) {
		return
	}
	r.result.Warnings = append(r.result.Warnings, message)
	r.Log.Warn(message)
}

// issue records the identity of the point, before libvirt has anything of it.
func (r *run) issue(context.Context) (err error) {
	r.instant, err = r.lock.Issue(instants.Instant{
		Point: r.plan.ID, Identity: r.plan.Identity, Checkpoint: r.plan.Checkpoint != "",
	})
	r.domain.Own = r.instant.Identity
	return err
}

// withdraw undoes issue if nothing else has the identity: no job was begun, or the job is
// over and its checkpoint deleted. It runs after the partial point is removed, which makes
// room in a full repository. The next run removes what it leaves.
func (r *run) withdraw(context.Context) error {
	if r.instant.Identity == "" || r.hung || r.left || !r.source.Gone() {
		return nil
	}
	return r.lock.DropInstant(r.instant.Identity)
}

func (r *run) reserve(context.Context) (err error) {
	r.partial, err = r.lock.Begin(r.plan.ID, r.plan.Identity)
	return err
}

// discard removes the partial point; a sealed one is no longer partial.
func (r *run) discard(context.Context) error {
	if r.partial == nil || r.sealed {
		return nil
	}
	if r.hung {
		r.Log.Warn("the unfinished point " + r.plan.ID + " is left, because it cannot be removed now: the next run of this domain removes it")
		return nil
	}
	r.Log.Info("removing the unfinished point " + r.plan.ID)
	return r.partial.Discard()
}
