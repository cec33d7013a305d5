// Package prune keeps the space that points take under control: it hides the points that a
// policy, or a person, removes, deletes those that nobody needs, and merges those that
// others need into the point that is chained onto them. It needs no libvirt.
//
//	recover → decide → hide → delete what nobody needs → merge → delete
//
// No file of a listed point is ever written to. A merge builds a new directory for the point
// and exchanges it in one step; whatever ends the process, each listed point shows what it
// showed, and the next run goes on.
package prune

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/limit"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/retention"
)

const (
	// DefaultMaxHidden is how many hidden points may be chained below a kept one before they
	// are merged even if that frees little: every reader opens their images, too.
	DefaultMaxHidden = 30

	// DefaultReadersWait is how long to wait for restores and verifications to end before a
	// point is exchanged or deleted. Longer ones are usual: the next prune goes on.
	DefaultReadersWait = 30 * time.Second

	// garbageShare is which part of the live data the superseded data of hidden points may
	// take before a rewrite pays: a quarter. With 1 % changed every night a point is then
	// rewritten about every 25 nights.
	garbageShare = 4
)

// Request is what to do with the points of a domain.
type Request struct {
	Domain string
	// Rules keep points; all others are removed. Or Remove are the ids of those that are
	// removed, and all others are kept. Exactly one of the two is given.
	Rules  retention.Rules
	Remove []string
	// DryRun changes nothing.
	DryRun bool
	// Options of the merges.
	Options
}

// Options say how points are merged. The zero value works.
type Options struct {
	// Compact merges whatever can be merged, now.
	Compact bool
	// MaxHidden is how many hidden points may be chained below a kept one; 0 is
	// DefaultMaxHidden.
	MaxHidden int
	// MaxDuration is when merging stops; the next run goes on. 0 is no limit.
	MaxDuration time.Duration
	// ReadersWait is how long to wait for those who read; 0 is DefaultReadersWait.
	ReadersWait time.Duration
	// Limits are shared with other work of this process. If nil, the rate is not limited.
	Limits *limit.Limits
	// Log may be nil.
	Log *slog.Logger
	// Progress, if set, is called with the bytes of a disk that were merged so far, and the
	// total. It is called often, from several goroutines.
	Progress func(disk string, merged, total int64)
}

func (o Options) withDefaults() Options {
	if o.MaxHidden == 0 {
		o.MaxHidden = DefaultMaxHidden
	}
	if o.ReadersWait == 0 {
		o.ReadersWait = DefaultReadersWait
	}
	if o.Limits == nil {
		o.Limits = limit.New(0)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Progress == nil {
		o.Progress = func(string, int64, int64) {}
	}
	return o
}

// Validate returns a fail.Usage for what cannot be asked for.
func (r Request) Validate() error {
	switch {
	case r.Rules.Empty() && len(r.Remove) == 0:
		return fail.Errorf(fail.Usage, "--keep-daily 30, for example; docs/retention.md has policies for common needs", "no rule says which points stay, so nothing is removed")
	case !r.Rules.Empty() && len(r.Remove) > 0:
		return fail.Errorf(fail.Usage, "leave out one of them", "rules (--keep-…) and points to remove (--remove) exclude each other")
	case r.MaxHidden < 0:
		return fail.Errorf(fail.Usage, "--max-hidden 30", "%d hidden points are impossible", r.MaxHidden)
	case r.MaxDuration < 0:
		return fail.Errorf(fail.Usage, "--max-duration 1h", "a duration of %v is negative", r.MaxDuration)
	}
	return r.Rules.Validate()
}

// Result is what was done; in a dry run, what would be.
type Result struct {
	Domain string `json:"domain"`
	DryRun bool   `json:"dry_run,omitempty"`
	// Points are all that were listed, oldest first, with what was decided.
	Points []Point `json:"points"`
	// Hidden are the points that were removed from what is listed, oldest first.
	Hidden []string `json:"hidden"`
	// Deleted are points whose data is gone, in the order of their deletion.
	Deleted []string `json:"deleted"`
	// Merged are the points that were built anew.
	Merged []Merged `json:"merged"`
	// Freed is how many bytes of the file system that has freed.
	Freed int64 `json:"freed_bytes"`
	// Held are the hidden points that are still there, oldest first.
	Held []Held `json:"held"`
	// Notes are for people. Warnings have an exit code of their own.
	Notes    []string `json:"notes,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	Seconds  float64  `json:"seconds"`
}

// Point is what was decided about a point.
type Point struct {
	ID      string        `json:"id"`
	Kind    manifest.Kind `json:"kind"`
	Time    time.Time     `json:"time"`
	Bytes   int64         `json:"image_bytes"`
	Keep    bool          `json:"keep"`
	Reasons []string      `json:"reasons"`
}

// Merged is a point that was built anew, so that it no longer needs others.
type Merged struct {
	Point string `json:"point"`
	// From are the hidden points that were merged into it, oldest first.
	From   []string `json:"from"`
	Parent string   `json:"parent,omitempty"` // that it has now
	// Cloned says that the images share their data with those they were made from (reflinks).
	Cloned  bool  `json:"cloned,omitempty"`
	Written int64 `json:"written_bytes"`
}

// Held is a hidden point whose data is still there.
type Held struct {
	Point string `json:"point"`
	Bytes int64  `json:"image_bytes"`
	By    string `json:"by"` // why, for people
}

// run is one prune.
type run struct {
	Options
	domain  string
	repo    *repository.Repository
	lock    *repository.Lock // nil in a dry run
	dryRun  bool
	ends    time.Time // of merging; zero: never
	able    abilities
	waiting map[string]string // why a merge is put off, by the point that it would build anew
	stopped string            // why nothing more is merged or deleted now
	damage  error             // that merges have found
	result  Result

	warnings sync.Mutex // of warnOnce, which is called by those who read
}

// Run removes points of a domain by rules or by name, and frees what can be freed.
//
// Nothing is changed after a fail.Usage, manifest.ErrNoPoint, *repository.ProtectedError,
// *repository.LockedError, or a *damage.Error of manifests. A *damage.Error of images comes
// from a merge, which changes nothing then; the points are hidden by that time, and Result
// says what was done.
func Run(ctx context.Context, repo *repository.Repository, request Request) (result Result, err error) {
	if err := request.Validate(); err != nil {
		return Result{}, err
	}
	r := newRun(repo, request.Domain, request.Options)
	r.dryRun, r.result.DryRun = request.DryRun, request.DryRun
	start := time.Now()
	defer func() { result = r.result; result.Seconds = time.Since(start).Seconds() }()
	if err := r.checkDomain(); err != nil {
		return r.result, err
	}
	if request.DryRun { // without the lock: also where this user may only read
		return r.result, r.look(ctx, request)
	}
	return r.result, r.locked(func() error { return r.prune(ctx, request) })
}

func newRun(repo *repository.Repository, domain string, o Options) *run {
	r := &run{Options: o.withDefaults(), domain: domain, repo: repo, waiting: map[string]string{}}
	if r.MaxDuration > 0 {
		r.ends = time.Now().Add(r.MaxDuration)
	}
	r.result = Result{Domain: domain, Points: []Point{}, Hidden: []string{}, Deleted: []string{}, Merged: []Merged{}, Held: []Held{}}
	return r
}

// locked calls do with the lock of the domain, after it was cleaned up.
func (r *run) locked(do func() error) (err error) {
	if r.lock, err = r.repo.Lock(r.domain); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.lock.Unlock()) }()
	return do()
}

// choose reads the state, and decides which points are to be removed, oldest first.
func (r *run) choose(request Request) (s state, remove []Point, err error) {
	if s, err = r.gather(); err == nil {
		r.warnOfPins()
		remove, err = r.decide(s, request)
	}
	return s, remove, err
}

// look is a dry run.
func (r *run) look(ctx context.Context, request Request) error {
	s, remove, err := r.choose(request)
	if err != nil {
		return err
	}
	return r.foresee(ctx, s, remove)
}

func (r *run) prune(ctx context.Context, request Request) error {
	s, remove, err := r.choose(request)
	if err != nil {
		return err
	}
	if err := r.cleanUp(); err != nil {
		return err
	}
	err = r.hide(ctx, s, remove)
	if err == nil {
		err = r.reclaim(ctx)
	}
	// What was done until an error is reported, too.
	return errors.Join(err, r.report())
}

// cleanUp removes what a killed run has left: points that were not sealed, and replacements,
// whose use has ended with that run.
func (r *run) cleanUp() error {
	names, err := r.lock.Leftovers()
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := r.lock.RemoveLeftover(name); err != nil {
			return err
		}
		r.note("removed %s, which a killed run had left", name)
	}
	return nil
}

func (r *run) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.result.Notes = append(r.result.Notes, text)
	r.Log.Debug(text)
}

func (r *run) warn(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.result.Warnings = append(r.result.Warnings, text)
	r.Log.Warn(text)
}
