package view

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/virtbackup/virtbackup/internal/bytesize"
	"github.com/virtbackup/virtbackup/internal/terminal"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/prune"
)

// Pruned prints what was decided about each point, and what was done; after a dry run, what
// would be done.
func Pruned(w io.Writer, r prune.Result) error {
	if _, err := fmt.Fprintln(w, r.Domain); err != nil {
		return err
	}
	if err := decisions(r).Print(w, "  "); err != nil {
		return err
	}
	_, err := io.WriteString(w, indented(pruneLines(r)))
	return err
}

// decisions is a table with a row for each point. Reasons are cut before they are left out.
func decisions(r prune.Result) *terminal.Grid {
	g := &terminal.Grid{Columns: []terminal.Column{{Name: "POINT"}, {Name: "KIND", Spare: 2}, {Name: "TIME", Spare: 1},
		{Name: "IMAGE", Right: true, Spare: 3}, {Name: "KEEP"}, {Name: "REASONS", Note: true}}}
	for _, p := range r.Points {
		keep := "remove"
		if p.Keep {
			keep = "keep"
		}
		g.Add(p.ID, p.Kind, manifest.TimeText(p.Time), bytesize.Short(p.Bytes), keep, strings.Join(p.Reasons, ", "))
	}
	return g
}

// pruneLines say what was done.
func pruneLines(r prune.Result) (lines []string) {
	would := func(done, todo string) string {
		if r.DryRun {
			return todo
		}
		return done
	}
	if len(r.Points) == 0 {
		lines = append(lines, "no points yet")
	}
	if len(r.Hidden) > 0 {
		lines = append(lines, would("removed: ", "would remove: ")+strings.Join(r.Hidden, " "))
	} else if len(r.Points) > 0 && len(r.Merged)+len(r.Deleted) == 0 {
		lines = append(lines, would("nothing to remove", "nothing would be removed"))
	}
	for _, m := range r.Merged {
		lines = append(lines, would("merged: ", "would merge: ")+mergedText(m, r.DryRun))
	}
	if len(r.Deleted) > 0 {
		lines = append(lines, would("deleted: ", "would delete: ")+strings.Join(r.Deleted, " "))
	}
	if len(r.Deleted)+len(r.Merged) > 0 {
		upTo := ""
		if r.Freed > 0 && slices.ContainsFunc(r.Merged, func(m prune.Merged) bool { return m.Cloned }) {
			upTo = "up to " // it may find that it cannot share all that it would
		}
		lines = append(lines, would("freed now: ", "would free now: "+upTo)+freed(r.Freed))
	}
	for _, line := range heldLines(r.Held) {
		lines = append(lines, would("still held: ", "would still be held: ")+line)
	}
	for _, note := range r.Notes {
		lines = append(lines, "note: "+note)
	}
	return lines
}

// heldLines are the hidden points, in a line for each reason, and how much they take.
func heldLines(held []prune.Held) (lines []string) {
	var reasons []string
	points, bytes := map[string][]string{}, map[string]int64{}
	for _, h := range held {
		if points[h.By] == nil {
			reasons = append(reasons, h.By)
		}
		points[h.By] = append(points[h.By], h.Point)
		bytes[h.By] += h.Bytes
	}
	for _, by := range reasons {
		lines = append(lines, fmt.Sprintf("%s (%s): %s", strings.Join(points[by], " "), bytesize.Text(bytes[by]), by))
	}
	return lines
}

// mergedText says what a point was merged from, what it is chained onto now, and what that
// has written.
func mergedText(m prune.Merged, dry bool) string {
	onto := "standalone"
	if m.Parent != "" {
		onto = "chained onto " + m.Parent
	}
	if dry {
		onto += " then"
	} else {
		onto += " now"
	}
	how := ""
	switch {
	case !dry && m.Cloned:
		how = fmt.Sprintf(" (%s written, the rest shared)", bytesize.Text(m.Written))
	case !dry:
		how = fmt.Sprintf(" (%s written)", bytesize.Text(m.Written))
	case m.Cloned:
		how = " (by sharing data)"
	}
	return fmt.Sprintf("%s into %s, %s%s", strings.Join(m.From, " "), m.Point, onto, how)
}

// freed says how much was freed. A merge that keeps most of its data takes more than it
// frees, where what it was made from stays for others.
func freed(n int64) string {
	if n < 0 {
		return bytesize.Text(0) + " (" + bytesize.Text(-n) + " more are taken)"
	}
	return bytesize.Text(n)
}

// Materialised prints which point was made standalone.
func Materialised(w io.Writer, r prune.Result) error {
	var lines []string
	for _, m := range r.Merged {
		lines = append(lines, fmt.Sprintf("%s needs no other point now: a synthetic full, %s written in %s", m.Point, bytesize.Text(m.Written), seconds(r.Seconds)))
	}
	for _, note := range r.Notes {
		lines = append(lines, "note: "+note)
	}
	_, err := fmt.Fprintf(w, "%s\n%s", r.Domain, indented(lines))
	return err
}

// indented returns lines as they stand below the name of a domain.
func indented(lines []string) string {
	var b strings.Builder
	for _, line := range lines {
		fmt.Fprintf(&b, "  %s\n", line)
	}
	return b.String()
}
