// Package release removes what we made: our checkpoints from libvirt, so that a domain can
// be undefined or moved, and, if requested, points from the repository.
package release

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/virtbackup/virtbackup/checkpoint"
	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/recovery"
	"github.com/virtbackup/virtbackup/repository"
)

// Request is what to release.
type Request struct {
	Domain string
	// Point is the only point to release; "" means all.
	Point string
	// Points removes the points, too, not only the checkpoints.
	Points bool
	// DryRun removes nothing.
	DryRun bool
	// As in guest.LockedDomain.
	SocketDir, ScratchDir string
	AgentTimeout          time.Duration
	Log                   *slog.Logger
}

// Result is what was removed; in a dry run, what would be.
type Result struct {
	Domain string `json:"domain"`
	DryRun bool   `json:"dry_run,omitempty"`
	// Checkpoints in libvirt, and points, in the order of their removal.
	Checkpoints []string `json:"checkpoints"`
	Points      []string `json:"points"`
	// Recovered lists what was cleaned up after an earlier run.
	Recovered []string `json:"recovered,omitempty"`
	Notes     []string `json:"notes,omitempty"`
}

// work is one request in progress.
type work struct {
	Request
	host   guest.Host
	repo   *repository.Repository
	lock   *repository.Lock
	domain guest.Domain // nil if libvirt does not know it
	active bool
	owned  bool // the domain's UUID is known from the points, or cannot conflict with them
	// stay: bitmaps of released checkpoints stay in the images.
	stay bool
	// namesake: libvirt has another domain of that name.
	namesake bool
	result   Result
}

// Run releases a domain or one of its points. It works for a domain that is shut off (then
// its bitmaps stay in the images, unless its points are removed) and, for points only, for one that libvirt does not know
// any more. Checkpoints of others stay.
//
// It checks the request before it removes anything. If it is interrupted, it can be
// repeated.
//
// Errors: hypervisor.ErrNoDomain if neither libvirt nor the repository knows the domain,
// manifest.ErrNoPoint, *lineage.NeededError for a point that others need,
// *repository.ProtectedError for one that must stay, *repository.LockedError,
// *repository.ReadersError where points to be removed are being read, and whatever libvirt or the file system reports.
func Run(ctx context.Context, host guest.Host, repo *repository.Repository, request Request) (result Result, retErr error) {
	w := &work{Request: request, host: host, repo: repo}
	w.result = Result{Domain: w.Domain, DryRun: w.DryRun, Checkpoints: []string{}, Points: []string{}}
	if w.Log == nil {
		w.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if err := w.find(); err != nil {
		return w.result, err
	}
	for _, name := range w.names() {
		lock, err := w.repo.Lock(name)
		if err != nil {
			return w.result, err
		}
		defer func() { retErr = errors.Join(retErr, lock.Unlock()) }()
		if name == w.Domain {
			w.lock = lock
		}
	}
	return w.result, w.run(ctx)
}

// names returns the names under which a run may hold the domain's lock.
func (w *work) names() []string {
	if w.domain == nil || w.domain.Name() == w.Domain {
		return []string{w.Domain}
	}
	return []string{w.Domain, w.domain.Name()}
}

// find looks the domain up by the UUID in the points: it may have another name by now, and
// another domain may have its name.
func (w *work) find() error {
	here, err := w.repo.Domains()
	if err != nil {
		return err
	}
	uuid := ""
	if slices.Contains(here, w.Domain) {
		// If no point can be read, the domain can only be found by its name.
		uuid, _ = w.repo.Owner(w.Domain)
	}
	// Without points the domain's UUID cannot conflict with any, and identities show what a
	// first run has left.
	lineage, err := w.repo.Lineage(w.Domain)
	w.owned = uuid != "" || err != nil || len(lineage.AllIDs()) == 0
	if uuid == "" {
		w.domain, err = w.host.Domain(w.Domain)
	} else {
		w.domain, err = w.host.DomainByUUID(uuid)
	}
	if errors.Is(err, hypervisor.ErrNoDomain) && slices.Contains(here, w.Domain) {
		w.domain = nil
		_, err := w.host.Domain(w.Domain)
		w.namesake = err == nil
		return nil
	}
	if err != nil {
		return err
	}
	w.active, err = w.domain.Active()
	return err
}

func (w *work) run(ctx context.Context) error {
	points, err := w.points()
	if err != nil {
		return err
	}
	if w.Points {
		lineage, err := w.repo.Lineage(w.Domain)
		if err != nil {
			return err
		}
		if err := w.repo.CheckRemovable(w.Domain, points, time.Now()); err != nil {
			return err
		}
		if err := lineage.CheckUnneeded(points); err != nil {
			return err
		}
	}
	if !w.Points || w.DryRun {
		return w.release(ctx, points)
	}
	// Restores and verifications end before points go.
	return w.lock.ExcludeReaders(ctx, readersWait, func() error { return w.release(ctx, points) })
}

// readersWait bounds the wait for those who read the points. A person may look for them then.
var readersWait = 10 * time.Second

func (w *work) release(ctx context.Context, points []string) error {
	if err := w.recover(ctx); err != nil {
		return err
	}
	if err := w.releaseCheckpoints(points); err != nil {
		return err
	}
	if err := w.removePoints(points); err != nil {
		return err
	}
	w.remark()
	return nil
}

// points lists the points to release, oldest first: hidden ones too if all are.
func (w *work) points() ([]string, error) {
	lineage, err := w.repo.Lineage(w.Domain)
	if err != nil {
		return nil, err
	}
	switch {
	case w.Point == "":
		return lineage.AllIDs(), nil
	case !slices.Contains(lineage.IDs(), w.Point):
		if _, err := w.repo.Point(w.Domain, w.Point); err != nil { // hidden, or there is none
			return nil, err
		}
		return nil, fmt.Errorf("%w: %s of domain %s", manifest.ErrNoPoint, w.Point, w.Domain)
	}
	return []string{w.Point}, nil
}

// recover cleans up like every run. It also redefines lost checkpoints, because their
// bitmaps can be deleted only then.
func (w *work) recover(ctx context.Context) error {
	if w.domain == nil || w.DryRun || !w.owned {
		return nil
	}
	locked := &guest.LockedDomain{
		Domain: w.domain, Repo: w.repo, Lock: w.lock, Log: w.Log,
		SocketDir: w.SocketDir, ScratchDir: w.ScratchDir, AgentTimeout: w.AgentTimeout,
	}
	report, err := recovery.Recover(ctx, locked, true)
	w.result.Recovered = report.Fixed
	return err
}

// releaseCheckpoints removes our checkpoints of these points, the newest first, and, if all
// points are released, our checkpoints without a point.
func (w *work) releaseCheckpoints(points []string) error {
	if w.domain == nil {
		return nil
	}
	docs, err := w.domain.Checkpoints(false)
	if err != nil {
		return err
	}
	ledger, err := w.repo.Ledger(w.Domain)
	if err != nil {
		return err
	}
	all, err := checkpoint.Survey(docs, ledger)
	if err != nil {
		return err
	}
	for _, c := range slices.Backward(all) {
		remove, ok, err := w.chosen(c, points)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if !w.DryRun {
			if err := remove(); err != nil {
				return err
			}
			w.Log.Debug("released checkpoint " + c.Label())
		}
		w.result.Checkpoints = append(w.result.Checkpoints, c.Label())
	}
	return nil
}

// chosen reports whether a checkpoint is to be removed, and returns the function for it.
func (w *work) chosen(c checkpoint.Checkpoint, points []string) (remove func() error, ok bool, err error) {
	point := c.Label()
	leftOver := c.Ours && !c.Sealed && w.Point == ""
	if !leftOver && !slices.Contains(points, point) {
		return nil, false, nil
	}
	switch {
	case c.Inherited:
		w.note("checkpoint %s stays: it was made before the repository was moved or copied, and the original may need it "+
			"(virtbackup checkpoint delete %s %s --force)", point, manifest.ShellWord(w.domain.Name()), c.Name)
		return nil, false, nil
	case c.Ours:
		return func() error { return w.deleteOurs(c) }, true, nil
	}
	m, err := w.repo.Point(w.Domain, point)
	if err != nil || !checkpoint.RecordedBy(w.repo, m, c.Checkpoint) {
		return nil, false, nil // it belongs to somebody else, or its owner is unknown
	}
	return func() error { return checkpoint.Delete(w.domain, c.Name) }, true, nil
}

// deleteOurs deletes a checkpoint of ours. If the domain is off and the point stays, the bitmaps
// stay in the images, and the identity, too: the next run can use them, also of a domain that was
// undefined and defined somewhere else.
func (w *work) deleteOurs(c checkpoint.Checkpoint) error {
	if !w.active && !w.Points {
		w.stay = true
		return w.deleteRecord(c)
	}
	err := checkpoint.DeleteIssued(w.domain, w.lock, c.Instant)
	if w.active || !errors.Is(err, hypervisor.ErrNotRunning) {
		return err
	}
	w.stay = true // on a block device, for example
	if err := w.deleteRecord(c); err != nil {
		return err
	}
	return w.lock.DropInstant(c.Instant.Identity)
}

// deleteRecord deletes libvirt's record of a checkpoint, and no bitmap.
func (w *work) deleteRecord(c checkpoint.Checkpoint) error {
	err := w.domain.DeleteCheckpoint(c.Name, true)
	if errors.Is(err, hypervisor.ErrNoCheckpoint) {
		return nil
	}
	return err
}

// dropUnknown drops the identities of a domain that libvirt does not know: it has
// neither checkpoints nor a job.
func (w *work) dropUnknown() error {
	is, _, err := w.lock.Instants()
	if err != nil || w.domain != nil {
		return err
	}
	for _, i := range is.Issued {
		if err := w.lock.DropInstant(i.Identity); err != nil {
			return err
		}
	}
	return nil
}

func (w *work) removePoints(points []string) error {
	if !w.Points {
		return nil
	}
	if w.DryRun {
		slices.Reverse(points)
		w.result.Points = append(w.result.Points, points...)
		return nil
	}
	err := w.lock.RemovePoints(points, func(id string) {
		w.Log.Debug("removed point " + id)
		w.result.Points = append(w.result.Points, id)
	})
	if err == nil && w.Point == "" {
		err = errors.Join(w.dropUnknown(), w.lock.RemoveDomain())
	}
	return err
}

func (w *work) note(format string, args ...any) {
	w.result.Notes = append(w.result.Notes, fmt.Sprintf(format, args...))
}

// remark adds notes about what the reader may not expect.
func (w *work) remark() {
	note := w.note
	switch {
	case w.domain == nil && w.namesake:
		note("the domain that libvirt calls %s now is another one, with another UUID: nothing of it was touched", w.Domain)
	case w.domain == nil && w.Points:
		note("libvirt does not know domain %s: there were only points to remove", w.Domain)
	case w.domain == nil:
		note("libvirt does not know domain %s: there are no checkpoints to release, and the points stay (--points removes them)", w.Domain)
	case w.domain.Name() != w.Domain:
		note("libvirt calls domain %s now %s", w.Domain, w.domain.Name())
	}
	switch {
	case w.domain == nil || w.active || len(w.result.Checkpoints) == 0:
	case !w.Points:
		note("the domain is shut off, so the bitmaps of these checkpoints stay in its images: "+
			"the next run of a domain with this name, UUID (%s) and images finds them, and continues the chain", w.domain.UUID())
	case w.stay:
		note("the domain is shut off, and bitmaps of these checkpoints stay in images that another host may use; qemu-img bitmap --remove IMAGE NAME deletes one")
	}
}
