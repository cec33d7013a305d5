package backup

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/virtbackup/virtbackup/checkpoint"
	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/xml"
)

// retire deletes checkpoints of ours that are no longer useful: those that no sealed
// point needs and, if there is a new one, those whose bitmaps are all lost and those of
// points that are older than the newest few. The point is sealed by now, so errors are
// only warnings.
func (r *run) retire(context.Context) error {
	all, err := r.domain.Survey(false)
	if err != nil {
		r.warn("list checkpoints to retire: %v", err)
		return nil
	}
	dead, err := r.dead()
	if err != nil {
		r.warn("look for checkpoints whose bitmaps are lost: %v", err)
	}
	old := r.old(all)
	ledger, err := r.domain.Ledger()
	if err != nil {
		r.warn("look for checkpoints to retire: %v", err)
		return nil
	}
	mayRemove := func(i instants.Instant) bool { return r.domain.MayRemove(ledger, i) }
	for _, c := range all {
		why := r.useless(c, mayRemove, dead, old)
		if why == "" {
			continue
		}
		r.retireOne(c.Label(), why, func() error { return r.domain.RetireCheckpoint(c.Instant) })
	}
	r.retireEarlier(all)
	return nil
}

// useless says why a checkpoint should be deleted, or "" if it should be kept. dead and
// old are names of checkpoints.
func (r *run) useless(c checkpoint.Checkpoint, mayRemove func(instants.Instant) bool, dead, old []string) string {
	switch {
	case !c.Ours || c.Inherited:
		return ""
	case !c.Sealed && !mayRemove(c.Instant):
		return "" // its run is alive, in the repository that this is a copy of
	case !c.Sealed:
		return "no point needs it"
	case slices.Contains(dead, c.Name):
		return "its bitmaps are lost"
	case slices.Contains(old, c.Name):
		return fmt.Sprintf("only the newest %d are kept", r.KeepCheckpoints)
	}
	return ""
}

func (r *run) retireOne(name, why string, remove func() error) {
	if err := fault.Around("retire", remove); err != nil {
		r.warn("retire checkpoint %s: %v", name, err)
		return
	}
	r.Log.Info(fmt.Sprintf("retired checkpoint %s: %s", name, why))
}

// old names the checkpoints of sealed points that are neither among the newest few nor
// that of the newest full, which a diff starts from. If this run has made no checkpoint,
// all are kept for the next inc.
func (r *run) old(all []checkpoint.Checkpoint) []string {
	if r.plan.Checkpoint == "" {
		return nil
	}
	return oldCheckpoints(all, append(slices.Clone(r.points), r.point), r.KeepCheckpoints)
}

// oldCheckpoints is old for the checkpoints and points of a domain.
func oldCheckpoints(all []checkpoint.Checkpoint, points []manifest.Manifest, keep int) (names []string) {
	numbers := map[string]int{}
	full := ""
	for _, m := range points { // oldest first
		if m.Checkpoint == "" {
			continue
		}
		numbers[m.Checkpoint] = m.Number()
		if m.Kind == manifest.KindFull {
			full = m.Checkpoint
		}
	}
	bases := slices.DeleteFunc(slices.Clone(all), func(c checkpoint.Checkpoint) bool { return !c.Base() || numbers[c.Name] == 0 })
	slices.SortFunc(bases, func(a, b checkpoint.Checkpoint) int { return cmp.Compare(numbers[b.Name], numbers[a.Name]) })
	for _, c := range bases[min(keep, len(bases)):] {
		if c.Name != full && !c.Inherited {
			names = append(names, c.Name)
		}
	}
	return names
}

// retireEarlier deletes the checkpoints of points of format 1, which have no identity and
// cannot be bases, once a point of the current format is sealed. One is deleted only if
// name, repository and creation time are those that its point recorded.
func (r *run) retireEarlier(all []checkpoint.Checkpoint) {
	if r.plan.Checkpoint == "" {
		return
	}
	for _, m := range r.points {
		c, ok := checkpoint.Find(all, m.Checkpoint)
		if m.Identity != "" || m.Checkpoint == "" || !ok || !checkpoint.RecordedBy(r.repo, m, c.Checkpoint) {
			continue
		}
		r.retireOne(c.Name, "it has no identity", func() error { return checkpoint.Delete(r.domain.Domain, c.Name) })
	}
}

// dead names our checkpoints that have lost all their bitmaps. If this run has made no
// checkpoint, they are kept: the next run reports them as the reason for its fallback.
//
// A size is also missing if libvirt could not get it at that moment. So it must be missing
// twice: when the plan was made and now. The sizes are queried again only if one was
// missing, since that costs 6 ms of QEMU for each checkpoint.
func (r *run) dead() ([]string, error) {
	// Which bitmaps can be used is not known of every disk of a domain that is shut off.
	if r.off || r.plan.Checkpoint == "" || !slices.ContainsFunc(r.checkpoints, checkpoint.Checkpoint.Dead) {
		return nil, nil
	}
	now, err := r.seemDead()
	return deadBefore(now, r.checkpoints), err
}

// deadBefore keeps the names of checkpoints that were dead before, too.
func deadBefore(names []string, before []checkpoint.Checkpoint) []string {
	return slices.DeleteFunc(names, func(name string) bool {
		c, ok := checkpoint.Find(before, name)
		return !ok || !c.Dead()
	})
}

// seemDead names our checkpoints for which libvirt reports no size now.
func (r *run) seemDead() ([]string, error) {
	domain, err := r.domain.Describe()
	if err != nil {
		return nil, err
	}
	all, err := r.domain.Survey(true)
	if err != nil {
		return nil, err
	}
	return deadCheckpoints(all, r.plan.Checkpoint, domain), nil
}

// deadCheckpoints names our checkpoints for which libvirt reports no size. It names none
// unless libvirt reports all sizes of the new checkpoint, which is healthy: otherwise the
// domain has ended meanwhile, or the answer cannot be trusted. A checkpoint with a detached
// disk is not dead either: the bitmap may be in that disk's image.
func deadCheckpoints(all []checkpoint.Checkpoint, made string, domain xml.Domain) (names []string) {
	if c, ok := checkpoint.Find(all, made); !ok || !c.Healthy() {
		return nil
	}
	detached := func(target string) bool { _, has := domain.Disk(target); return !has }
	for _, c := range all {
		if c.Ours && !c.Inherited && c.Dead() && !slices.ContainsFunc(c.Bitmaps(), detached) {
			names = append(names, c.Name)
		}
	}
	return names
}
