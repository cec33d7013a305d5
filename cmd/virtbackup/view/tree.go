package view

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/virtbackup/virtbackup/internal/bytesize"
	"github.com/virtbackup/virtbackup/internal/terminal"
	"github.com/virtbackup/virtbackup/manifest"
)

// Names prints the names of points in the form that other commands take.
func Names(w io.Writer, listed []Listed) error {
	for _, p := range listed {
		if _, err := fmt.Fprintf(w, "%s@%s\n", p.Domain, p.ID); err != nil {
			return err
		}
	}
	return nil
}

// Trees prints the points of each domain as a tree of chains.
func Trees(w io.Writer, domains []string, listed []Listed) error {
	if len(listed) == 0 {
		_, err := fmt.Fprintln(w, "no points yet")
		return err
	}
	for i, domain := range domains {
		if i > 0 {
			if _, err := fmt.Fprintln(w); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprintln(w, domain); err != nil {
			return err
		}
		nodes := tree(listed, domain)
		if len(nodes) == 0 {
			if _, err := fmt.Fprintln(w, "  no points yet"); err != nil {
				return err
			}
			continue
		}
		if err := listGrid(nodes).Print(w, "  "); err != nil {
			return err
		}
	}
	return nil
}

// Removed prints how much removed points take; nothing if there are none.
func Removed(w io.Writer, points []manifest.Manifest) (err error) {
	total := int64(0)
	for _, m := range points {
		_, image := sums(m)
		total += image
	}
	switch size := bytesize.Text(total); len(points) {
	case 0:
	case 1:
		_, err = fmt.Fprintf(w, "1 removed point takes %s (list --hidden)\n", size)
	default:
		_, err = fmt.Fprintf(w, "%d removed points take %s (list --hidden)\n", len(points), size)
	}
	return err
}

// listGrid returns a table with a row for each point.
func listGrid(nodes []node) *terminal.Grid {
	drilled := slices.ContainsFunc(nodes, func(n node) bool { return n.point.Drill != nil })
	g := &terminal.Grid{Columns: []terminal.Column{{Name: "POINT"}, {Name: "KIND", Spare: 1}, {Name: "PARENT", Spare: 6}, {Name: "TIME"}, {Name: "DISKS", Spare: 5},
		{Name: "DATA", Right: true, Spare: 7}, {Name: "IMAGE", Right: true, Spare: 2}, {Name: "CONSISTENCY", Spare: 8}, {Name: "CHECKPOINT", Spare: 4},
		{Name: "VERIFIED", Spare: 3}}}
	if drilled {
		g.Columns = append(g.Columns, terminal.Column{Name: "BOOTED", Spare: 3})
	}
	g.Columns = append(g.Columns, terminal.Column{Name: "NOTE", Note: true})
	for _, n := range nodes {
		p := n.point
		data, image := sums(p.Manifest)
		cells := []any{n.branch + p.ID, p.Kind, p.Parent, manifest.TimeText(p.Time), targets(p.Manifest), bytesize.Short(data), bytesize.Short(image), p.Consistency,
			p.checkpoint(), p.verified()}
		if drilled {
			cells = append(cells, p.booted())
		}
		g.Add(append(cells, p.remark())...)
		if p.Verified != nil && !p.Verified.Sound {
			g.Columns[9].Spare = 0 // damage is always shown
		}
	}
	return g
}

// node is a line of a tree.
type node struct {
	branch string // what is drawn before the id
	point  Listed
}

// tree lists the points of a domain, each below the nearest listed one that it is chained
// onto. Where that is damaged or gone, the point is still shown.
func tree(listed []Listed, domain string) []node {
	known := map[string]bool{}
	children := map[string][]Listed{}
	for _, p := range listed {
		if p.Domain != domain {
			continue
		}
		known[p.ID] = true // numbers grow: parents come first
		if !known[p.below] {
			p.below = ""
		}
		children[p.below] = append(children[p.below], p)
	}
	var nodes []node
	for _, root := range children[""] {
		nodes = append(nodes, node{"", root})
		nodes = appendBelow(nodes, children, root.ID, "")
	}
	return nodes
}

// appendBelow draws a chain as one column, and side branches one step to the right, below
// the point that they start from. A chain of a hundred increments is not a staircase.
//
//	check1        full
//	│  └─ diff2   diff  check1
//	├─ check3     inc   check1
//	└─ check4     inc   check3
func appendBelow(nodes []node, children map[string][]Listed, id, indent string) []node {
	side, next := branches(children[id])
	if next == nil {
		return nodes
	}
	for i, m := range side {
		branch, below := "├─ ", "│  "
		if i == len(side)-1 {
			branch, below = "└─ ", "   "
		}
		nodes = append(nodes, node{indent + "│  " + branch, m})
		nodes = appendBelow(nodes, children, m.ID, indent+"│  "+below)
	}
	branch := "├─ "
	if len(children[next.ID]) == 0 {
		branch = "└─ "
	}
	nodes = append(nodes, node{indent + branch, *next})
	return appendBelow(nodes, children, next.ID, indent)
}

// branches splits the children of a point into the one that continues the chain, which is
// the newest that is a base, and the others.
func branches(below []Listed) (side []Listed, next *Listed) {
	if len(below) == 0 {
		return nil, nil
	}
	last := len(below) - 1
	for i := last; i >= 0; i-- {
		if below[i].IsBase() {
			last = i
			break
		}
	}
	return slices.Concat(below[:last], below[last+1:]), &below[last]
}

// checkpoint says whether libvirt has the checkpoint of the point.
func (p Listed) checkpoint() string {
	if p.HasCheckpoint {
		return "yes"
	}
	return "-"
}

// verified returns the day since which every byte is proven, how much of it is, or that damage
// was found.
func (p Listed) verified() string {
	switch {
	case p.Verified == nil && p.ProvenPercent > 0:
		return fmt.Sprintf("%d%%", p.ProvenPercent)
	case p.Verified == nil:
		return "-"
	case !p.Verified.Sound:
		return "DAMAGED"
	}
	return day(p.Verified.Time)
}

// booted returns the day when the last drill booted the point, or that it did not boot.
func (p Listed) booted() string {
	switch {
	case p.Drill == nil:
		return "-"
	case !p.Drill.Booted:
		return "FAILED"
	}
	return day(p.Drill.Time)
}

// remark is the note of list about a point: that it was removed, is protected or pinned, disks that
// are lost, an odd time, and what is unusual about its disks, compared with the parent.
func (p Listed) remark() string {
	var notes []string
	if p.Removed != nil {
		notes = append(notes, "removed "+manifest.TimeText(p.Removed.Time)+": "+p.Removed.Reason)
	}
	if len(p.Lost) > 0 {
		notes = append(notes, strings.Join(p.Lost, " ")+" LOST: a point below is missing or damaged")
	}
	if p.Protected != nil {
		notes = append(notes, p.Protected.String())
	}
	if p.Pinned != "" {
		notes = append(notes, "pinned: "+p.Pinned)
	}
	notes = append(notes, p.Clock, diskRemark(p.Manifest, p.parent))
	return strings.Join(slices.DeleteFunc(notes, func(s string) bool { return s == "" }), "; ")
}
