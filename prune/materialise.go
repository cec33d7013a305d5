package prune

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/virtbackup/virtbackup/internal/bytesize"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/merge"
	"github.com/virtbackup/virtbackup/repository"
)

// Materialise makes a point standalone, a synthetic full, from the repository alone: its
// images are built anew from those of its chain, which stay as they are. The guest is not
// touched.
//
// Errors: manifest.ErrNoPoint, fail.Usage for a point that cannot be a full, a *damage.Error
// of what it needs, *repository.LockedError, *repository.ReadersError, and fail.Other where
// the file system cannot exchange directories or has no space. Nothing is changed then.
func Materialise(ctx context.Context, repo *repository.Repository, domain, point string, o Options) (result Result, err error) {
	r := newRun(repo, domain, o)
	start := time.Now()
	defer func() { result = r.result; result.Seconds = time.Since(start).Seconds() }()
	if err := r.checkDomain(); err != nil {
		return r.result, err
	}
	return r.result, r.locked(func() error { return r.materialise(ctx, point) })
}

func (r *run) materialise(ctx context.Context, point string) error {
	m, err := r.repo.Find(r.domain, point)
	if err != nil {
		return err
	}
	s, err := r.gather()
	if err != nil {
		return err
	}
	switch by := s.pinned(m.ID); {
	case m.Parent == "":
		r.note("%s is a %s already", m.ID, m.Kind)
		return nil
	case !m.IsBase() || m.Identity == "":
		return fail.Errorf(fail.Usage, "virtbackup restore "+manifest.ShellWord(r.domain)+"@"+m.ID+" --to DIR makes standalone images of it",
			"point %s of domain %s is a %s: only an inc of version 0.2.0 or later can become a full", m.ID, r.domain, m.Kind)
	case by != "":
		return fail.Errorf(fail.Locked, "it can be built anew when what uses it has ended", "point %s of domain %s is %s", m.ID, r.domain, by)
	}
	if err := r.cleanUp(); err != nil {
		return err
	}
	if r.able, err = probe(r.repo.DomainDir(r.domain)); err != nil {
		return fmt.Errorf("point %s of domain %s is not built anew: %w", m.ID, r.domain, err)
	}
	if !r.able.exchange {
		return fail.Errorf(fail.Other, "virtbackup full "+manifest.ShellWord(r.domain)+" starts a new chain",
			"point %s of domain %s is not built anew: this file system cannot exchange two directories in one step", m.ID, r.domain)
	}
	return r.standalone(ctx, s, m)
}

// standalone merges all that a point needs into it, and hides nothing.
func (r *run) standalone(ctx context.Context, s state, m manifest.Manifest) error {
	all := s.Needs(m.ID)
	c := chainRun{target: m}
	for i := len(all) - 2; i >= 0; i-- { // without the point itself, nearest first
		c.hidden = append(c.hidden, all[i])
	}
	p, err := r.planStandalone(ctx, s, c)
	if err != nil {
		return err
	}
	full := chainOnto(m, nil)
	full.Kind, full.Synthetic, full.FullTime = manifest.KindFull, true, c.lowest().ReadInFull()
	done, err := r.replace(ctx, s, p, full)
	if errors.Is(err, merge.ErrNoClone) && ctx.Err() == nil {
		r.able.reflink = false
		if p, err = r.planStandalone(ctx, s, c); err == nil {
			done, err = r.replace(ctx, s, p, full)
		}
	}
	var readers *repository.ReadersError
	switch {
	case err == nil:
		done.From = []string{}
		r.result.Merged = append(r.result.Merged, done)
	case !errors.As(err, &readers):
		err = fmt.Errorf("make point %s of domain %s standalone: %w", m.ID, r.domain, err)
	}
	return r.cause(ctx, err)
}

// planStandalone plans a clone, or else a rewrite. It is an error if it does not fit.
func (r *run) planStandalone(ctx context.Context, s state, c chainRun) (mergePlan, error) {
	p, err := r.planClone(ctx, s, c)
	if err == nil && !p.clone {
		p, _, err = r.survey(ctx, s, c)
	}
	if err != nil {
		return p, err
	}
	free, known, err := r.free()
	if err == nil && known && p.need > free {
		err = fail.Errorf(fail.Other, "free space there; virtbackup prune frees what hidden points take",
			"point %s is not built anew: that needs %s, and the repository at %s has %s", c.target.ID, bytesize.Text(p.need), r.repo.Dir(), bytesize.Text(free))
	}
	return p, err
}
