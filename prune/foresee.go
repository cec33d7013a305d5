package prune

import (
	"context"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/lineage"
	"github.com/virtbackup/virtbackup/manifest"
)

// foresee fills in what a prune would do, from the state and the points that it would remove.
// What the file system can do is guessed from its type, since to try it out changes the
// repository.
func (r *run) foresee(ctx context.Context, s state, remove []Point) error {
	s = s.without(remove)
	for _, p := range remove {
		r.result.Hidden = append(r.result.Hidden, p.ID)
	}
	for _, id := range s.unneeded() {
		s.gone[id] = true
		r.result.Deleted = append(r.result.Deleted, id)
		r.result.Freed += allocated(r.repo.PointDir(r.domain, id))
	}
	r.able = guess(r.repo.Dir())
	runs, _ := s.runs()
	crowded := r.crowded(s, runs)
	for i, c := range runs {
		if !r.able.exchange {
			break
		}
		p, err := r.plan(ctx, s, c, i == crowded)
		if err != nil {
			return err
		}
		if p == nil {
			continue
		}
		if err := r.foreseeMerge(ctx, s, *p); err != nil {
			return err
		}
	}
	r.result.Held = s.held(r.waiting, "")
	return nil
}

// foreseeMerge enters a merge, and what it would free: what is there, without what one image
// of it takes. A clone leaves about the same; it takes little new space, since it keeps that
// of the images that it shares data with.
func (r *run) foreseeMerge(ctx context.Context, s state, p mergePlan) error {
	done := Merged{Point: p.target.ID, From: p.ids(), Cloned: p.clone}
	if p.parent != nil {
		done.Parent = p.parent.ID
	}
	r.result.Merged = append(r.result.Merged, done)
	left := p.need
	if p.clone {
		rewrite, _, err := r.survey(ctx, s, p.chainRun)
		if err != nil {
			return err
		}
		left = rewrite.need
	}
	for _, d := range p.disks {
		if d.kept {
			left += allocatedFile(d.Links[0].Path)
		}
	}
	there := int64(0)
	for _, m := range append(slices.Clone(p.hidden), p.target) {
		there += allocated(r.repo.PointDir(r.domain, m.ID))
		if m.ID != p.target.ID {
			s.gone[m.ID] = true
			r.result.Deleted = append(r.result.Deleted, m.ID)
		}
	}
	r.result.Freed += there - left
	return nil
}

// without is the state after points were hidden.
func (s state) without(remove []Point) state {
	l := *s.Lineage
	l.Removals = maps.Clone(l.Removals)
	for _, p := range remove {
		l.Removals[p.ID] = lineage.Removal{Point: p.ID}
	}
	hidden := func(m manifest.Manifest) bool { _, is := l.Removals[m.ID]; return is }
	l.Points = slices.DeleteFunc(slices.Clone(l.Points), hidden)
	l.Hidden = slices.DeleteFunc(slices.Clone(l.All()), func(m manifest.Manifest) bool { return !hidden(m) })
	s.Lineage, s.gone = &l, map[string]bool{}
	return s
}

// guess is what file systems of that type can do.
func guess(dir string) abilities {
	var s unix.Statfs_t
	if unix.Statfs(dir, &s) != nil {
		return abilities{}
	}
	switch uint32(s.Type) {
	case unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC:
		return abilities{exchange: true, reflink: true}
	case unix.NFS_SUPER_MAGIC, unix.FUSE_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC:
		return abilities{}
	}
	return abilities{exchange: true}
}
