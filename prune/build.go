package prune

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/diskimage"
	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/merge"
	"github.com/virtbackup/virtbackup/repository"
)

// merge builds the target of a run anew and exchanges it. The hidden points of the run have
// no child then, and are deleted next.
func (r *run) merge(ctx context.Context, s state, p mergePlan) error {
	m := merged(p)
	done, err := r.replace(ctx, s, p, m)
	if errors.Is(err, merge.ErrNoClone) && ctx.Err() == nil {
		r.Log.Debug(fmt.Sprintf("%v: it is rewritten", err))
		r.able.reflink = false
		return nil // the next plan has no clone
	}
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return r.failed(p, fmt.Errorf("merge %s of domain %s into %s: %w", strings.Join(p.ids(), " "), r.domain, p.target.ID, err))
	}
	done.From = p.ids()
	r.result.Merged = append(r.result.Merged, done)
	r.Log.Info(fmt.Sprintf("merged %s into %s", strings.Join(done.From, " "), done.Point))
	return nil
}

// failed decides what follows from a merge that has failed, and changed nothing. Others are
// tried still where it is about this one alone: its images are damaged, or it does not fit.
func (r *run) failed(p mergePlan, err error) error {
	switch {
	case fail.Is(err, fail.Bug):
		return err
	case fail.Is(err, fail.Damaged):
		r.waiting[p.target.ID] = "not merged into " + p.target.ID + ": damage was found"
		r.damage = errors.Join(r.damage, err)
	case localfile.IsFull(err):
		r.waiting[p.target.ID] = "not merged into " + p.target.ID + ": the file system was full"
		r.warn("%v: the points stay hidden", err)
	default:
		return err
	}
	return nil
}

// merged is the manifest of a target: it shows what it showed, and is chained onto the parent
// of the lowest point that was merged into it.
func merged(p mergePlan) manifest.Manifest {
	m := p.target
	for _, h := range slices.Backward(p.hidden) {
		m.Merged = append(slices.Clip(m.Merged), append(slices.Clone(h.Merged), h.ID)...)
	}
	slices.SortFunc(m.Merged, func(a, b string) int { return manifest.NextNumber(a) - manifest.NextNumber(b) })
	m.Merged = slices.Compact(m.Merged)
	m.Kind = manifest.KindFull
	m.FullTime = p.lowest().ReadInFull()
	return chainOnto(m, p.parent)
}

// chainOnto gives a manifest its parent; nil is none.
func chainOnto(m manifest.Manifest, parent *manifest.Manifest) manifest.Manifest {
	m.Format = manifest.Format
	m.Parent, m.ParentTime, m.ParentIdentity, m.Gone = "", time.Time{}, "", nil
	if parent == nil {
		return m
	}
	m.Kind, m.FullTime = manifest.KindInc, time.Time{}
	m.Parent, m.ParentTime, m.ParentIdentity = parent.ID, parent.Time, parent.Identity
	for _, d := range parent.Disks {
		_, has := m.Disk(d.Target)
		leftOut := slices.ContainsFunc(m.LeftOut, func(l manifest.LeftOut) bool { return l.Target == d.Target })
		if !has && !leftOut {
			m.Gone = append(m.Gone, d.Target)
		}
	}
	return m
}

// replace builds a point anew from runs of images and exchanges it.
func (r *run) replace(ctx context.Context, s state, p mergePlan, m manifest.Manifest) (done Merged, err error) {
	rep, err := r.lock.BeginReplacement(p.target)
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, rep.Discard()) }() // no-op once exchanged; also after a panic
	done = Merged{Point: m.ID, Parent: m.Parent, Cloned: p.clone}
	built, err := r.buildDisks(ctx, rep, p, &m, &done)
	if err != nil {
		return done, err
	}
	if err := rep.KeepFiles(); err != nil {
		return done, err
	}
	if err := rep.Complete(m); err != nil {
		return done, err
	}
	sound := s.sound[m.ID]
	if sound {
		if err := r.readBack(ctx, rep, p, m, built); err != nil {
			return done, err
		}
	}
	taken := allocated(rep.Dir())
	if err := rep.Exchange(ctx, r.ReadersWait); err != nil {
		return done, err
	}
	r.renew(s, m)                                  // what a clone shares, and what is kept, is as damaged as it was
	r.result.Freed += allocated(rep.Dir()) - taken // the old files are under that name now
	return done, rep.RemoveOld()
}

// built is a disk that was made, and the ranges of its image that were written.
type built struct {
	target  string
	changed []hashlist.Range
}

// buildDisks makes the images of the disks, one after the other, and enters them in the
// manifest.
func (r *run) buildDisks(ctx context.Context, rep *repository.Replacement, p mergePlan, m *manifest.Manifest, done *Merged) (all []built, err error) {
	m.Disks = slices.Clone(m.Disks)
	for i, d := range p.disks {
		if d.kept {
			if err := rep.KeepDisk(d.disk); err != nil {
				return nil, err
			}
			continue
		}
		if err := fault.Point("merge: disk"); err != nil {
			return nil, err
		}
		stats, err := r.buildDisk(ctx, rep, p, d)
		if err != nil {
			return nil, fmt.Errorf("disk %s: %w", d.disk.Target, r.explained(err))
		}
		done.Written += stats.Written
		m.Disks[i] = describe(d, stats)
		all = append(all, built{d.disk.Target, stats.Changed})
	}
	return all, nil
}

// describe is the manifest's entry of a disk that was built anew.
func describe(d diskRun, stats merge.Stats) manifest.Disk {
	disk := d.disk
	disk.Kind, disk.Parent = manifest.KindInc, d.Links[0].Disk.Parent
	if disk.Parent == "" {
		disk.Kind = manifest.KindFull
	}
	disk.Method, disk.Reason = "", ""
	disk.DataBytes, disk.ZeroBytes = stats.DataBytes, stats.ZeroBytes
	disk.ImageBytes, disk.Hashes, disk.HashRange = stats.ImageBytes, stats.Hashes, hashlist.RangeLength
	return disk
}

func (r *run) buildDisk(ctx context.Context, rep *repository.Replacement, p mergePlan, d diskRun) (merge.Stats, error) {
	name := p.target.ID + "/" + d.disk.Target
	o := r.mergeOptions(func(bytes int64) { r.Progress(name, bytes, max(bytes, d.live)) })
	if p.clone {
		stats, err := merge.Clone(ctx, d.Run, filepath.Join(rep.Dir(), d.disk.Target), o)
		if err == nil {
			rep.AddDisk(d.disk.Target, stats.Hashes, stats.ImageBytes)
		}
		return stats, err
	}
	im, err := rep.CreateImage(d.disk.Target, directio.Auto)
	if err != nil {
		return merge.Stats{}, err
	}
	return merge.Rewrite(ctx, d.Run, im, o)
}

// explained adds to damage which points are lost with it.
func (r *run) explained(err error) error {
	var damaged *damage.Error
	if errors.As(err, &damaged) {
		r.repo.Explain(damaged)
	}
	return err
}

// readBack reads what was written, and compares it with its hashes, so that a verification
// of the point still holds: of what a clone shares every byte was proven then, of what was
// written now.
func (r *run) readBack(ctx context.Context, rep *repository.Replacement, p mergePlan, m manifest.Manifest, all []built) error {
	for _, b := range all {
		d, _ := m.Disk(b.target)
		link := diskimage.Link{Point: m, Disk: d, Path: filepath.Join(rep.Dir(), d.Image)}
		if err := r.readBackDisk(ctx, link, p.clone, b.changed); err != nil {
			return fmt.Errorf("read back what was written: %w", err)
		}
	}
	return nil
}

func (r *run) readBackDisk(ctx context.Context, link diskimage.Link, clone bool, changed []hashlist.Range) error {
	if clone {
		return merge.ReadBack(ctx, link, changed, r.mergeOptions(nil))
	}
	found, err := diskimage.Check(ctx, link, hashlist.CheckOptions{Misread: r.warnOnce})
	return errors.Join(err, damage.ErrorOf(found))
}

// renew notes that what was verified of a point holds for the new files. It is information
// only, so an error is a warning.
func (r *run) renew(s state, m manifest.Manifest) {
	digest, _ := s.Digest(m.ID)
	if err := r.repo.RenewVerified(r.domain, m.ID, digest, s.last[m.ID]); err != nil {
		r.warn("note what was verified of %s: %v", m.ID, err)
	}
}

func (r *run) warnOnce(text string) {
	r.warnings.Lock()
	defer r.warnings.Unlock()
	if !slices.Contains(r.result.Warnings, text) {
		r.warn("%s", text)
	}
}
