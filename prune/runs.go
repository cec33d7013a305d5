package prune

import (
	"fmt"
	"slices"

	"github.com/virtbackup/virtbackup/diskimage"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/merge"
)

// chainRun is a target and the hidden points that it alone is chained onto: those that can be
// merged into it.
//
//	full(hidden) ── inc(hidden) ── inc(kept)       all of them
//	inc(kept)    ── inc(hidden) ── inc(kept)       the last two, chained onto the first
//	full(hidden) ── inc(hidden, two children) ── … the first into the second, which stays hidden
type chainRun struct {
	target manifest.Manifest
	hidden []manifest.Manifest // nearest first; at least one
}

// ids of the hidden points, oldest first.
func (c chainRun) ids() (ids []string) {
	for _, m := range slices.Backward(c.hidden) {
		ids = append(ids, m.ID)
	}
	return ids
}

// lowest is the oldest of the hidden points; the target if there are none, as where a point
// needs nothing of its parent.
func (c chainRun) lowest() manifest.Manifest {
	if len(c.hidden) == 0 {
		return c.target
	}
	return c.hidden[len(c.hidden)-1]
}

// above leaves a full at the end of the run where it is. ok is false where no hidden inc is
// left, or there is no full.
func (c chainRun) above() (incs chainRun, ok bool) {
	if len(c.hidden) < 2 || c.lowest().Parent != "" {
		return chainRun{}, false
	}
	return chainRun{c.target, c.hidden[:len(c.hidden)-1]}, true
}

// runs finds what can be merged, oldest first, and says why other hidden points cannot be.
// Targets are the kept points, and hidden ones that others will need for long: those with
// several children, or with a child that cannot be built anew.
func (s state) runs() (runs []chainRun, held map[string]string) {
	held = map[string]string{}
	for _, m := range s.All() {
		if s.gone[m.ID] || !s.isHidden(m.Parent) || s.isHidden(m.ID) && !s.stays(m) {
			continue
		}
		if by := s.fixed(m); by != "" {
			if len(s.children(m.Parent)) == 1 {
				held[m.Parent] = m.ID + " needs it, " + by
			}
			continue
		}
		c := chainRun{target: m}
		for id := m.Parent; s.isHidden(id); {
			parent, _ := s.Point(id)
			if s.stays(parent) {
				break
			}
			c.hidden = append(c.hidden, parent)
			id = parent.Parent
		}
		if len(c.hidden) > 0 {
			runs = append(runs, c)
		}
	}
	return runs, held
}

// fixed says why a point cannot be built anew; "" if it can.
func (s state) fixed(m manifest.Manifest) string {
	switch by := s.pinned(m.ID); {
	case !m.IsBase():
		return fmt.Sprintf("a %s, which is never merged", m.Kind)
	case m.Identity == "":
		return "which was made by a version before 0.2.0 and cannot be built anew"
	case by != "":
		return "which is " + by
	}
	return ""
}

// stays tells whether a hidden point cannot be merged into its child.
func (s state) stays(m manifest.Manifest) bool {
	children := s.children(m.ID)
	if len(children) != 1 || s.pinned(m.ID) != "" {
		return true
	}
	child, ok := s.Point(children[0])
	return !ok || s.fixed(child) != ""
}

// crowd is how many hidden points there are: images that readers open, and links of chains,
// which are bounded.
func (s state) crowd() (n int) {
	for _, m := range s.Hidden {
		if !s.gone[m.ID] {
			n++
		}
	}
	return n
}

// crowded is the index of the run to be merged because too many points are hidden: the one
// with the most hidden incs, which costs what these have. It is -1 if there are few enough.
func (r *run) crowded(s state, runs []chainRun) int {
	if s.crowd() <= r.MaxHidden {
		return -1
	}
	most, index := 0, -1
	for i, c := range runs {
		if incs, ok := c.above(); ok {
			c = incs
		}
		if r.waiting[c.target.ID] == "" && len(c.hidden) > most && (len(c.hidden) > 1 || c.lowest().Parent != "") {
			most, index = len(c.hidden), i
		}
	}
	return index
}

func (s state) isHidden(id string) bool {
	_, hidden := s.Removals[id]
	return hidden
}

// unneeded are hidden points that no other needs, once those before them in the list are
// gone: newest first.
func (s state) unneeded() (ids []string) {
	goes := map[string]bool{}
	stays := func(id string) bool { return !goes[id] }
	for _, m := range slices.Backward(s.Hidden) { // children before their parents
		if !s.gone[m.ID] && !slices.ContainsFunc(s.children(m.ID), stays) && s.pinned(m.ID) == "" {
			goes[m.ID] = true
			ids = append(ids, m.ID)
		}
	}
	return ids
}

// diskRun is the part of a run that one disk goes through.
type diskRun struct {
	disk manifest.Disk // of the target
	// kept says that the image stays as it is: the disk is a full in the target.
	kept bool
	live int64 // bytes of data that the result holds
	merge.Run
}

// disks are the runs of the target's disks: from the target's image down to the lowest of
// the points that are merged, or to where the disk begins.
func (r *run) disks(s state, c chainRun) (all []diskRun, err error) {
	for _, d := range c.target.Disks {
		links, err := r.repo.LinksOf(c.target, d)
		if err != nil {
			return nil, err
		}
		run := diskRun{disk: d, kept: len(links) == 1}
		merged := func(link diskimage.Link) bool {
			return link.Point.ID == c.target.ID || slices.ContainsFunc(c.hidden, func(m manifest.Manifest) bool { return m.ID == link.Point.ID })
		}
		first := slices.IndexFunc(links, merged)
		run.Below, run.Links = links[:first:first], links[first:]
		all = append(all, run)
	}
	return all, nil
}
