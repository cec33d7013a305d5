package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/virtbackup/virtbackup/checkpoint"
	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/xml"
)

// findBase returns the point that an inc or diff of the state's disks starts from:
// the newest with a checkpoint where one of them can have a bitmap, else the newest
// that they can be compared with.
func findBase(w Wanted, s State) (*manifest.Manifest, error) {
	if w.Since != "" {
		return namedBase(w, s)
	}
	var second *manifest.Manifest
	bitmaps := slices.ContainsFunc(s.Disks, func(d xml.Disk) bool { return noBitmaps(d) == "" })
	for i := len(s.Points) - 1; i >= 0; i-- {
		m := &s.Points[i]
		if !m.IsBase() || w.Kind == manifest.KindDiff && !s.beginsChain(m) {
			continue
		}
		if _, ok := sealedCheckpoint(s, m); ok && bitmaps {
			return m, nil
		}
		if second == nil && canCompare(s, m) {
			second = m
		}
	}
	if second != nil {
		return second, nil
	}
	what := "full or inc"
	if w.Kind == manifest.KindDiff {
		what = "full"
	}
	return nil, fail.Errorf(fail.NotFound, "virtbackup full "+w.word(), "domain %s has no %s of these disks to start from", w.Domain, what)
}

// beginsChain tells whether a point is a full, or all that it is chained onto was removed.
func (s State) beginsChain(m *manifest.Manifest) bool {
	if m.Kind == manifest.KindFull {
		return true
	}
	listed := func(above manifest.Manifest) bool {
		return slices.ContainsFunc(s.Points, func(p manifest.Manifest) bool { return p.ID == above.ID })
	}
	above := manifest.Chain(slices.Concat(s.Points, s.Hidden), *m)[1:]
	return len(above) > 0 && !slices.ContainsFunc(above, listed)
}

func namedBase(w Wanted, s State) (*manifest.Manifest, error) {
	point, err := resolveBase(w, s)
	if err != nil {
		return nil, err
	}
	m := &point
	if !m.IsBase() {
		return nil, fail.Errorf(fail.Usage, "virtbackup list "+w.word()+" shows the points; a full or inc can be a base",
			"point %s is a %s and has no checkpoint: it cannot be a base", m.ID, m.Kind)
	}
	if canCompare(s, m) {
		return m, nil
	}
	if _, ok := sealedCheckpoint(s, m); !ok {
		return nil, fail.Errorf(fail.NotFound, fmt.Sprintf("virtbackup list %s shows the points; virtbackup full %s starts a new chain", w.word(), w.word()),
			"point %s has none of these disks: there is nothing to compare them with", m.ID)
	}
	return m, nil
}

// resolveBase finds the point that --since names. An id may name any point; a time, or
// latest, finds only points that can be a base.
func resolveBase(w Wanted, s State) (manifest.Manifest, error) {
	since := strings.TrimPrefix(w.Since, w.Domain+"@")
	if _, _, err := manifest.ParsePointID(since); err == nil {
		if slices.ContainsFunc(s.Hidden, func(m manifest.Manifest) bool { return m.ID == since }) {
			return manifest.Manifest{}, fail.Errorf(fail.NotFound, "virtbackup prune "+w.word()+" --undo "+since+" brings it back", "point %s of domain %s was removed", since, w.Domain)
		}
		return manifest.Resolve(w.Domain, s.Points, since)
	}
	bases := slices.DeleteFunc(slices.Clone(s.Points), func(m manifest.Manifest) bool { return !m.IsBase() })
	if len(bases) == 0 {
		return manifest.Manifest{}, fail.Errorf(fail.NotFound, "virtbackup full "+w.word()+" makes one", "domain %s has no point that can be a base", w.Domain)
	}
	return manifest.Resolve(w.Domain, bases, since)
}

// sealedCheckpoint returns libvirt's checkpoint of a point, if libvirt has it and it has
// the identity of the point.
func sealedCheckpoint(s State, m *manifest.Manifest) (checkpoint.Checkpoint, bool) {
	if m.Checkpoint == "" || m.Identity == "" { // points of format 1 are never bases by name
		return checkpoint.Checkpoint{}, false
	}
	c, ok := checkpoint.Find(s.Checkpoints, m.Checkpoint)
	return c, ok && c.Base() && c.Instant.Identity == m.Identity && c.Instant.Point == m.ID
}

// noCheckpoint says why libvirt has no usable checkpoint of a point.
func noCheckpoint(s State, m *manifest.Manifest) string {
	c, there := checkpoint.Find(s.Checkpoints, m.Checkpoint)
	switch {
	case m.Checkpoint == "":
		return fmt.Sprintf("point %s has no checkpoint", m.ID)
	case m.Identity == "":
		return fmt.Sprintf("point %s was made by a version that knew checkpoints by their names alone", m.ID)
	case s.Damage != nil:
		return fmt.Sprintf("it is unknown whether checkpoint %s is ours: %v", m.ID, s.Damage)
	case there && !c.Ours:
		return fmt.Sprintf("checkpoint %s has our marks, but this repository does not know its identity: the point, or the list of identities, came here from a copy", m.ID)
	case there && c.Instant.State == instants.Retired:
		return fmt.Sprintf("checkpoint %s is to be deleted", m.ID)
	case there:
		return fmt.Sprintf("checkpoint %s is of another instant than point %s", m.ID, m.ID)
	}
	return fmt.Sprintf("checkpoint %s is gone from libvirt (deleted, or older than those that --keep-checkpoints keeps)", m.ID)
}
