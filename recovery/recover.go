package recovery

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/internal/fault"
)

// Report is what was found, and what became of it.
type Report struct {
	Domain string `json:"domain"`
	DryRun bool   `json:"dry_run,omitempty"`
	// Fixed is what was put right; in a dry run, what would be.
	Fixed []string `json:"fixed"`
	// Left is what could not be put right yet, and why.
	Left []string `json:"left"`
	// Lost are checkpoints whose bitmaps are gone, and why that is known: their
	// points restore, and are a base no more.
	Lost []string `json:"lost"`
}

// finding is one thing that an earlier run left behind, and how to put it right.
type finding struct {
	what  string
	later string // why that cannot be done now; "" if it can
	fix   func(context.Context) error
	// silent: nobody needs to be told.
	silent bool
}

// laterError is why something cannot be put right now, and keeps nothing else
// from being done.
type laterError struct{ why string }

func (e *laterError) Error() string { return e.why }

// unknownWhileOff is why no checkpoint is defined again for a domain that is off.
const unknownWhileOff = "whether its bitmaps are still valid can be told only while the domain runs"

// Look finds what there is to put right, and changes nothing.
func (s *Site) Look() (Report, error) {
	report := s.newReport()
	report.DryRun = true
	if err := s.Repo.CheckOwner(s.Lock.Domain(), s.Domain.UUID()); err != nil {
		return report, err
	}
	found, err := s.find()
	if err != nil {
		return report, fmt.Errorf("look for what an earlier run left: %w", err)
	}
	for _, f := range found {
		report.add(f)
	}
	missing, err := s.missing()
	if err != nil {
		return report, err
	}
	later, err := s.whileOff(unknownWhileOff)
	if err != nil {
		return report, err
	}
	for _, m := range missing {
		report.add(finding{what: m.what() + ": to be defined again, if its bitmaps are still valid", later: later})
	}
	return report, nil
}

func (s *Site) newReport() Report {
	return Report{Domain: s.Lock.Domain(), Fixed: []string{}, Left: []string{}, Lost: []string{}}
}

func (r *Report) add(f finding) {
	if f.silent {
		return
	}
	if f.later != "" {
		r.Left = append(r.Left, f.what+": "+f.later)
		return
	}
	r.Fixed = append(r.Fixed, f.what)
}

// Recover puts right what an earlier run of this domain left when it was killed,
// and gives libvirt back the checkpoints that it has lost. again tries those,
// too, that were found to be lost for good before. Errors end it; what was done
// until then is in the report, and a further Recover goes on.
func (s *Site) Recover(ctx context.Context, again bool) (Report, error) {
	report := s.newReport()
	if err := s.Repo.CheckOwner(s.Lock.Domain(), s.Domain.UUID()); err != nil {
		return report, err
	}
	found, err := s.find()
	if err != nil {
		return report, fmt.Errorf("look for what an earlier run left: %w", err)
	}
	for _, f := range found {
		if err := s.fix(ctx, f, &report); err != nil {
			return report, fmt.Errorf("clean up after an earlier run: %s: %w", f.what, err)
		}
	}
	// Until format 2 this mark held what instants.json has now.
	if err := s.Lock.ClearMark("lost"); err != nil {
		return report, err
	}
	return report, s.redefine(again, &report)
}

func (s *Site) fix(ctx context.Context, f finding, report *Report) error {
	var later *laterError
	if f.later == "" {
		err := fault.Around("recover", func() error { return f.fix(ctx) })
		if err != nil && !errors.As(err, &later) {
			return err
		}
	}
	if later != nil {
		f.later = later.why
		s.log().Debug(f.what + ": " + f.later)
	}
	report.add(f)
	if f.later == "" && !f.silent {
		s.log().Info("cleaned up after an earlier run: " + f.what)
	}
	return nil
}

// find lists what is provably ours and belongs to no sealed point, in the order
// in which it must go: the guest first, and a checkpoint cannot be deleted while
// a job runs.
func (s *Site) find() ([]finding, error) {
	var all []finding
	for _, look := range []func() ([]finding, error){s.findGuest, s.findCheckpoints, s.findPartials, s.findFiles, s.findForgotten} {
		some, err := look()
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

func (s *Site) findGuest() ([]finding, error) {
	var all []finding
	_, job, err := s.OurJob()
	if err != nil {
		return nil, err
	}
	paused, err := s.Domain.PausedForIO()
	if err != nil {
		return nil, err
	}
	_, wasPaused, pausedErr := s.readMark(markPaused)
	_, frozen, frozenErr := s.readMark(markFrozen)
	switch {
	case job && paused:
		all = append(all, finding{what: "a backup job, with the guest paused by an I/O error", fix: s.EndJob})
	case job:
		all = append(all, finding{what: "a backup job", fix: s.EndJob})
	case wasPaused && paused:
		all = append(all, finding{what: "the guest, paused by an I/O error", fix: s.resume})
	case wasPaused:
		all = append(all, finding{what: "a note that an I/O error had paused the guest", fix: s.resume})
	}
	if frozen {
		all = append(all, finding{what: "a freeze of the guest's file systems", fix: s.thaw})
	}
	return all, errors.Join(pausedErr, frozenErr)
}

func (s *Site) findCheckpoints() ([]finding, error) {
	checkpoints, err := s.Survey(false)
	if err != nil {
		return nil, err
	}
	later, err := s.whileOff("its bitmaps can be deleted only while the domain runs")
	if err != nil {
		return nil, err
	}
	ledger, err := s.ledger()
	if err != nil {
		return nil, err
	}
	var all []finding
	for _, c := range checkpoints {
		what := "checkpoint " + c.Label()
		switch {
		case !c.Ours || c.Inherited || !s.mayRemove(ledger, c.Instant):
			continue
		case c.Instant.State == instants.Retired:
			what += ", which is retired"
		case c.Sealed:
			continue
		}
		all = append(all, finding{what: what, later: later, fix: func(context.Context) error {
			return s.ifNotRefused(func() error { return s.DeleteCheckpoint(c.Instant) })
		}})
	}
	return all, nil
}

// ifNotRefused deletes checkpoints or bitmaps, or defines a checkpoint again. Where libvirt
// or QEMU refuses that for now, the error is a *laterError: what there is stays, with its
// identity, and the next run tries again. libvirt waits 30 s for another job on the domain
// to end: where it has once, the others are not tried. Where libvirt cannot be reached, or
// does not have the domain, nothing else can be done either, and the error stays what it is.
func (s *Site) ifNotRefused(do func() error) error {
	if s.busy != nil {
		return s.busy
	}
	err := do()
	var refused *hypervisor.Error
	switch {
	case errors.Is(err, hypervisor.ErrUnreachable), errors.Is(err, hypervisor.ErrNoDomain):
		return err
	case !errors.As(err, &refused) && !errors.Is(err, hypervisor.ErrNotRunning):
		return err
	}
	later := &laterError{err.Error() + "; the next run does it"}
	if errors.Is(err, hypervisor.ErrBusy) {
		s.busy = later
	}
	return later
}

// findForgotten lists identities that nothing is to be left of but their entry, once the
// fixes before are done: their point was not sealed, or their checkpoint was retired. An
// entry of a sealed point stays: its checkpoint may be defined again. These come last, as
// they write to the repository: what is removed before makes room.
func (s *Site) findForgotten() ([]finding, error) {
	ledger, err := s.ledger()
	if err != nil {
		return nil, err
	}
	var all []finding
	for _, i := range ledger.Issued {
		if !s.mayRemove(ledger, i) || i.Identity == s.Own || i.Checkpoint && ledger.Sealed(i) && i.State != instants.Retired {
			continue
		}
		all = append(all, finding{what: "the note of " + i.Point, fix: func(context.Context) error { return s.forgetInstant(i) }, silent: true})
	}
	return all, nil
}

// forgetInstant drops an identity, unless libvirt lists its checkpoint, or nobody can tell
// now whether there are bitmaps of it (*laterError): the domain is off, or another job
// holds it.
func (s *Site) forgetInstant(i instants.Instant) error {
	if i.Checkpoint {
		if _, err := s.Domain.CheckpointXML(i.CheckpointName()); !errors.Is(err, hypervisor.ErrNoCheckpoint) {
			return err
		}
		if err := s.ifNotRefused(func() error { return s.deleteOrphans(i) }); err != nil {
			return err
		}
	}
	return s.unlessFull(s.Lock.DropInstant(i.Identity))
}

// unlessFull lets an error of a full repository pass: a note that cannot be taken now is
// taken by a later run, and must not keep this one from making room.
func (s *Site) unlessFull(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		s.log().Debug(err.Error())
		return nil
	}
	return err
}

// whileOff is why something cannot be done to a domain that is shut off, and ""
// for one that runs.
func (s *Site) whileOff(why string) (string, error) {
	active, err := s.Domain.Active()
	if err != nil || active {
		return "", err
	}
	return why + "; the next run does it", nil
}

func (s *Site) findPartials() ([]finding, error) {
	partials, err := s.Lock.Leftovers()
	if err != nil {
		return nil, err
	}
	var all []finding
	for _, name := range partials {
		all = append(all, finding{what: "the unfinished point " + name, fix: func(context.Context) error { return s.Lock.RemoveLeftover(name) }})
	}
	return all, nil
}

// findFiles lists sockets and scratch files of ours, and the directories of the
// servers that disks were compared with. Those of a job that runs are not there
// any more when their turn comes.
func (s *Site) findFiles() ([]finding, error) {
	var all []finding
	ledger, err := s.ledger()
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, dir := range []string{RunDir(s.SocketDir), RunDir(s.ScratchDir), os.TempDir()} {
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
			if s.ours(ledger, path) {
				all = append(all, finding{what: path, fix: func(context.Context) error { return os.RemoveAll(path) }})
			}
		}
	}
	return all, nil
}

func removeIfExists(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
