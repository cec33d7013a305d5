package prune

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/virtbackup/virtbackup/internal/bytesize"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/merge"
	"github.com/virtbackup/virtbackup/repository"
)

// errTimeIsUp is the cause where merging has taken as long as it may.
var errTimeIsUp = errors.New("--max-duration is over")

// deletedAtOnce is how many points are deleted before others get a turn: those who read, and
// whoever stops this. Every turn reads all manifests, which takes as long as deleting a few.
const deletedAtOnce = 100

// reclaim frees what hidden points take: it deletes those that nobody needs, newest first,
// and merges others, until there is nothing left to do now. Space is freed before any is
// taken.
func (r *run) reclaim(ctx context.Context) error {
	for {
		s, err := r.gather()
		if err != nil {
			return err
		}
		if newest := s.lastResort(); newest != "" {
			r.stopped = "kept, as every listed point is known to be damaged"
			r.warn("every listed point of domain %s is known to be damaged, so hidden ones keep their data: virtbackup prune %s --undo %s lists the newest that is not",
				r.domain, manifest.ShellWord(r.domain), newest)
			return nil
		}
		worked, err := r.reclaimOnce(ctx, s)
		var readers *repository.ReadersError
		switch {
		case errors.As(err, &readers):
			r.warn("%v: hidden points keep their space until the next prune", readers)
			r.stopped, worked = readers.Error(), false
		case errors.Is(err, errTimeIsUp):
			r.warn("%v: the next prune begins that merge again", err)
			r.stopped, worked = errTimeIsUp.Error(), false
		case err != nil:
			return err
		}
		if !worked {
			return r.damage
		}
	}
}

// lastResort is the newest hidden point that is not known to be damaged, if all listed ones
// are; else "".
func (s state) lastResort() (id string) {
	if slices.ContainsFunc(s.Points, func(m manifest.Manifest) bool { return !s.damaged[m.ID] }) {
		return ""
	}
	for _, m := range s.Hidden {
		if !s.damaged[m.ID] {
			id = m.ID
		}
	}
	return id
}

// reclaimOnce does one thing that frees space. It returns false if there is none to be done
// now.
func (r *run) reclaimOnce(ctx context.Context, s state) (worked bool, err error) {
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	if ids := s.unneeded(); len(ids) > 0 {
		return true, r.delete(ctx, ids[:min(len(ids), deletedAtOnce)])
	}
	runs, _ := s.runs()
	if len(runs) == 0 {
		return false, nil
	}
	if r.able, err = r.probed(); err != nil || !r.able.exchange {
		return false, err
	}
	merging := ctx
	if !r.ends.IsZero() {
		var end context.CancelFunc
		merging, end = context.WithDeadlineCause(ctx, r.ends, errTimeIsUp)
		defer end()
	}
	for {
		i := r.crowded(s, runs) // before others are put off, which would be merged for that next
		crowded := i >= 0
		if !crowded {
			i = slices.IndexFunc(runs, func(c chainRun) bool { return r.waiting[c.target.ID] == "" })
		}
		if i < 0 {
			return false, nil
		}
		if merging.Err() != nil {
			return false, context.Cause(merging)
		}
		p, err := r.plan(merging, s, runs[i], crowded)
		if err != nil && merging.Err() == nil {
			err = r.failed(mergePlan{chainRun: runs[i]}, err)
		}
		if err != nil {
			return false, r.cause(merging, err)
		}
		if p != nil {
			return true, r.cause(merging, r.merge(merging, s, *p))
		}
	}
}

// cause returns why ctx was cancelled in place of the errors that follow from it.
func (r *run) cause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// probed tries out the file system once.
func (r *run) probed() (abilities, error) {
	if r.able.exchange {
		return r.able, nil
	}
	able, err := probe(r.repo.DomainDir(r.domain))
	if localfile.IsFull(err) {
		r.warn("nothing is merged: %v", err)
		return able, nil
	}
	if err == nil && !able.exchange {
		r.note("this file system cannot exchange two directories in one step, so nothing is merged: " +
			"hidden points go with the last point that needs them")
	}
	return able, err
}

// delete removes hidden points that nobody needs, in this order.
func (r *run) delete(ctx context.Context, ids []string) error {
	oldestFirst := slices.Clone(ids)
	slices.Reverse(oldestFirst)
	bytes := map[string]int64{}
	for _, id := range ids {
		bytes[id] = allocated(r.repo.PointDir(r.domain, id))
	}
	return r.lock.ExcludeReaders(ctx, r.ReadersWait, func() error {
		return r.lock.RemovePoints(oldestFirst, func(id string) {
			r.Log.Info("deleted point " + id)
			r.result.Deleted = append(r.result.Deleted, id)
			r.result.Freed += bytes[id]
		})
	})
}

// mergePlan is a run that is merged now.
type mergePlan struct {
	chainRun
	disks  []diskRun
	parent *manifest.Manifest // that the target has then; nil: none
	clone  bool               // what does not change is shared with the lowest images
	need   int64              // bytes that it takes of the file system
}

// plan decides whether a run is merged now. If it is not, the plan is nil, and r.waiting
// says why. crowded says that too many points are hidden, and that these are the most.
func (r *run) plan(ctx context.Context, s state, c chainRun, crowded bool) (*mergePlan, error) {
	if p, err := r.planClone(ctx, s, c); err != nil || p.clone {
		return r.ifFits(p, err)
	}
	p, found, err := r.survey(ctx, s, c)
	if err != nil {
		return nil, err
	}
	incs, hasFull := c.above()
	switch pays := r.pays(found); {
	case pays && r.fits(p), crowded && !hasFull:
		return r.ifFits(p, nil)
	case hasFull && (pays || crowded): // the hidden incs alone take little
		less, found, err := r.survey(ctx, s, incs)
		if err != nil || crowded || r.pays(found) {
			return r.ifFits(less, err)
		}
	}
	if r.pays(found) {
		return r.ifFits(p, nil)
	}
	r.waiting[c.target.ID] = fmt.Sprintf("waits to be merged into %s: %s of superseded data beside %s, and %d of %d hidden points (--compact merges now)",
		c.target.ID, bytesize.Short(found.Total-found.Kept), bytesize.Short(found.Kept), s.crowd(), r.MaxHidden)
	return nil, nil
}

// pays tells whether a rewrite frees enough to be done now.
func (r *run) pays(found merge.Census) bool {
	return r.Compact || found.Total-found.Kept > found.Kept/garbageShare
}

// fits tells whether there is room for a plan, as far as the file system says.
func (r *run) fits(p mergePlan) bool {
	free, known, err := r.free()
	return err != nil || !known || p.need <= free
}

// ifFits drops a plan that takes more space than there is.
func (r *run) ifFits(p mergePlan, err error) (*mergePlan, error) {
	if err != nil {
		return nil, err
	}
	free, known, err := r.free()
	if err != nil {
		return nil, err
	}
	if known && p.need > free {
		r.waiting[p.target.ID] = fmt.Sprintf("waits to be merged into %s: that needs %s, and %s is free", p.target.ID, bytesize.Text(p.need), bytesize.Text(free))
		what, are := "point", "is"
		if len(p.hidden) > 1 {
			what, are = "points", "are"
		}
		r.warn("%s %s of domain %s %s hidden, but not merged into %s: that needs %s, and the repository at %s has %s",
			what, strings.Join(p.ids(), " "), r.domain, are, p.target.ID, bytesize.Text(p.need), r.repo.Dir(), bytesize.Text(free))
		return nil, nil
	}
	return &p, nil
}

// report says what is still held, and by what.
func (r *run) report() error {
	s, err := r.gather()
	if err != nil {
		return err
	}
	r.result.Held = s.held(r.waiting, r.stopped)
	return nil
}

// held lists the hidden points that are left, oldest first, with what keeps their data.
// waiting says why runs are not merged, by their targets, stopped why nothing is done any more.
func (s state) held(waiting map[string]string, stopped string) []Held {
	runs, by := s.runs()
	for _, c := range runs {
		for _, m := range c.hidden {
			if by[m.ID] = waiting[c.target.ID]; by[m.ID] == "" && stopped != "" {
				by[m.ID] = fmt.Sprintf("waits to be merged into %s: %s", c.target.ID, stopped)
			}
		}
	}
	all := []Held{}
	for _, m := range s.Hidden {
		if s.gone[m.ID] {
			continue
		}
		why := by[m.ID]
		switch children := s.children(m.ID); {
		case why != "":
		case s.pinned(m.ID) != "":
			why = s.pinned(m.ID)
		case len(children) > 0:
			why = "needed by " + strings.Join(children, ", ")
		default:
			why = strings.TrimSuffix("waits to be deleted: "+stopped, ": ")
		}
		all = append(all, Held{m.ID, imageBytes(m), why})
	}
	return all
}
