package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/backup"
	"github.com/virtbackup/virtbackup/checkpoint"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/restore"
)

// printResult prints v as JSON with --json, else whatever people does.
func printResult(c *cli.Context, v any, people func() error) error {
	if !c.Bool("json") {
		return people()
	}
	e := json.NewEncoder(c.App.Writer)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// newTable is a table without lines, as ls and virsh print theirs.
func newTable(header table.Row, numbers ...string) table.Writer {
	t := table.NewWriter()
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Format.Header = text.FormatDefault
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "  "
	t.SetStyle(style)
	t.AppendHeader(header)
	var columns []table.ColumnConfig
	for _, name := range numbers {
		columns = append(columns, table.ColumnConfig{Name: name, Align: text.AlignRight, AlignHeader: text.AlignRight})
	}
	t.SetColumnConfigs(columns)
	return t
}

// printTable drops the spaces that padding leaves at the ends of lines.
func printTable(w io.Writer, t table.Writer, indent string) error {
	for line := range strings.Lines(t.Render()) {
		if _, err := fmt.Fprintln(w, strings.TrimRight(indent+line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// printTrees prints the points of each domain as a tree of chains.
func printTrees(w io.Writer, domains []string, listed []listedPoint) error {
	points := make([]repository.Manifest, 0, len(listed))
	known := map[[2]string]listedPoint{}
	for _, p := range listed {
		points = append(points, p.Manifest)
		known[[2]string{p.Domain, p.ID}] = p
	}
	if len(points) == 0 {
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
		nodes := tree(points, domain)
		if len(nodes) == 0 {
			if _, err := fmt.Fprintln(w, "  no points yet"); err != nil {
				return err
			}
			continue
		}
		t := newTable(table.Row{"POINT", "KIND", "PARENT", "TIME", "DISKS", "DATA", "IMAGE", "CONSISTENCY", "CHECKPOINT", "VERIFIED", "NOTE"}, "DATA", "IMAGE")
		for _, n := range nodes {
			m, p := n.point, known[[2]string{domain, n.point.ID}]
			data, image := sums(m)
			t.AppendRow(table.Row{n.branch + m.ID, m.Kind, m.Parent, localTime(m.Time), targets(m), size(data), size(image), m.Consistency,
				p.checkpoint(), p.verified(), p.remark()})
		}
		if err := printTable(w, t, "  "); err != nil {
			return err
		}
	}
	return nil
}

// checkpoint says whether libvirt has one of the point.
func (p listedPoint) checkpoint() string {
	if p.HasCheckpoint {
		return "yes"
	}
	return "-"
}

// verified says when the point was last found sound, or that it was not.
func (p listedPoint) verified() string {
	switch {
	case p.Verified == nil:
		return "-"
	case !p.Verified.Sound:
		return "DAMAGED"
	}
	return localTime(p.Verified.Time)
}

// node is one line of a tree.
type node struct {
	branch string // what is drawn before the id
	point  repository.Manifest
}

// tree lists the points of a domain so that each stands below its parent.
func tree(points []repository.Manifest, domain string) []node {
	known := map[string]bool{}
	children := map[string][]repository.Manifest{}
	for _, m := range points {
		if m.Domain == domain {
			known[m.ID] = true
		}
	}
	for _, m := range points {
		if m.Domain != domain {
			continue
		}
		parent := m.Parent
		if !known[parent] {
			parent = "" // the parent is damaged or gone; the point is still shown
		}
		children[parent] = append(children[parent], m)
	}
	var nodes []node
	for _, root := range children[""] {
		nodes = append(nodes, node{"", root})
		nodes = appendBelow(nodes, children, root.ID, "")
	}
	return nodes
}

// appendBelow draws a chain as one column, and side branches, one step to the
// right, below the point they start from: a chain of a hundred increments does
// not become a staircase.
//
//	check1        full
//	│  └─ diff2   diff  check1
//	├─ check3     inc   check1
//	└─ check4     inc   check3
func appendBelow(nodes []node, children map[string][]repository.Manifest, id, indent string) []node {
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

// branches splits the children of a point into the one that continues the chain,
// the newest that is itself a base, and those to the side.
func branches(below []repository.Manifest) (side []repository.Manifest, next *repository.Manifest) {
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

func sums(m repository.Manifest) (data, image int64) {
	for _, d := range m.Disks {
		data += d.DataBytes
		image += d.ImageBytes
	}
	return data, image
}

func targets(m repository.Manifest) string {
	var names []string
	for _, d := range m.Disks {
		names = append(names, d.Target)
	}
	return strings.Join(names, " ")
}

// remark is what list notes about a point: disks that are lost, its time, where that is
// odd, and its disks.
func (p listedPoint) remark() string {
	lost := ""
	if len(p.Lost) > 0 {
		lost = strings.Join(p.Lost, " ") + " LOST: a point below is missing or damaged"
	}
	notes := []string{lost, p.Clock, diskRemark(p.Manifest)}
	return strings.Join(slices.DeleteFunc(notes, func(s string) bool { return s == "" }), "; ")
}

// diskRemark says which disks are not what the point's kind says, and why.
func diskRemark(m repository.Manifest) string {
	var order []string
	disks := map[string][]string{}
	for _, d := range m.Disks {
		how := ""
		switch {
		case d.Method == repository.MethodRescan:
			how = "rescanned"
		case d.Kind == repository.KindFull && (m.Kind == repository.KindInc || m.Kind == repository.KindDiff):
			how = "in full"
		default:
			continue
		}
		if d.Reason != "" {
			how += ": " + d.Reason
		}
		if disks[how] == nil {
			order = append(order, how)
		}
		disks[how] = append(disks[how], d.Target)
	}
	var notes []string
	for _, how := range order {
		notes = append(notes, strings.Join(disks[how], " ")+" "+how)
	}
	return strings.Join(notes, "; ")
}

func printPoint(w io.Writer, repo *repository.Repository, m repository.Manifest) error {
	lines := [][2]string{
		{"point", m.ID}, {"domain", m.Domain + " (" + m.DomainUUID + ")"}, {"kind", string(m.Kind)},
		{"parent", orNone(m.Parent)}, {"checkpoint", orNone(m.Checkpoint)},
		{"time", m.Time.Local().Format("2006-01-02 15:04:05.000 -0700")},
		{"took", m.Finished.Sub(m.Time).Round(time.Millisecond).String()},
		{"consistency", m.Consistency},
		{"made by", fmt.Sprintf("virtbackup %s, libvirt %s, QEMU %s", m.Versions.Virtbackup, m.Versions.Libvirt, m.Versions.QEMU)},
		{"directory", repo.PointDir(m.Domain, m.ID)},
	}
	for _, target := range m.Gone {
		lines = append(lines, [2]string{"gone", "disk " + target + " of the parent"})
	}
	for _, warning := range m.Warnings {
		lines = append(lines, [2]string{"warning", warning})
	}
	for _, l := range lines {
		if _, err := fmt.Fprintf(w, "%-12s %s\n", l[0]+":", l[1]); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	return printDisks(w, m, "")
}

func printDisks(w io.Writer, m repository.Manifest, indent string) error {
	t := newTable(table.Row{"DISK", "KIND", "SIZE", "DATA", "ZEROS", "IMAGE", "PARENT", "SOURCE", "NOTE"}, "SIZE", "DATA", "ZEROS", "IMAGE")
	t.SuppressEmptyColumns()
	for _, d := range m.Disks {
		t.AppendRow(table.Row{d.Target, d.Kind, size(d.VirtualSize), size(d.DataBytes), size(d.ZeroBytes), size(d.ImageBytes), d.Parent, d.Source, diskNote(d)})
	}
	return printTable(w, t, indent)
}

// diskNote is what a reader of a point should know of one of its disks.
func diskNote(d repository.Disk) string {
	switch note := "encrypted at its source, stored in the clear"; {
	case !d.SourceEncrypted:
		return d.Reason
	case d.Reason == "":
		return note
	default:
		return d.Reason + "; " + note
	}
}

func printBackup(w io.Writer, r backup.Result) error {
	m := r.Point
	since := ""
	if m.Parent != "" {
		since = " since " + m.Parent
	}
	_, image := sums(m)
	if _, err := fmt.Fprintf(w, "%s: %s%s of domain %s, %s consistent, %s in %s\n",
		m.ID, m.Kind, since, m.Domain, m.Consistency, size(image), seconds(r.Seconds)); err != nil {
		return err
	}
	if r.Why != "" {
		if _, err := fmt.Fprintf(w, "  %s\n", r.Why); err != nil {
			return err
		}
	}
	return printDisks(w, m, "  ")
}

func printRestore(w io.Writer, r restore.Result) error {
	if _, err := fmt.Fprintf(w, "restored %s of domain %s, taken %s, in %s\n", r.Point, r.Domain, localTime(r.Time), seconds(r.Seconds)); err != nil {
		return err
	}
	t := newTable(table.Row{"DISK", "SIZE", "DATA", "IMAGE"}, "SIZE", "DATA")
	for _, d := range r.Disks {
		t.AppendRow(table.Row{d.Target, size(d.VirtualSize), size(d.DataBytes), d.Image})
	}
	if err := printTable(w, t, "  "); err != nil {
		return err
	}
	if r.XML == "" {
		return nil
	}
	_, err := fmt.Fprintf(w, "  the domain's XML as it was: %s\n", r.XML)
	return err
}

// checkpointRow is a checkpoint in JSON.
type checkpointRow struct {
	Name    string    `json:"name"`
	Owner   string    `json:"owner"`
	Point   string    `json:"point,omitempty"`
	Created time.Time `json:"created"`
	// Bytes are what is dirty, by disk: an incremental copies at most that, and less
	// where the guest has trimmed or zeroed since. -1 where the bitmap is missing or
	// broken, or the domain is off.
	Bytes  map[string]int64 `json:"bytes"`
	Broken []string         `json:"broken,omitempty"`
}

func checkpointRows(all []checkpoint.Checkpoint) []checkpointRow {
	rows := []checkpointRow{}
	for _, c := range all {
		row := checkpointRow{Name: c.Name, Owner: c.Owner(), Created: c.Created.UTC(), Bytes: map[string]int64{}, Broken: c.Broken()}
		if c.Sealed {
			row.Point = c.Instant.Point
		}
		for _, d := range c.Disks {
			if d.Bitmap != "" {
				row.Bytes[d.Target] = d.Size
			}
		}
		rows = append(rows, row)
	}
	return rows
}

func printCheckpoints(c *cli.Context, all []checkpoint.Checkpoint) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(c.App.Writer, "no checkpoints")
		return err
	}
	t := newTable(table.Row{"CHECKPOINT", "OWNER", "POINT", "CREATED", "DISKS", "INC WOULD COPY AT MOST"}, "INC WOULD COPY AT MOST")
	for _, r := range checkpointRows(all) {
		t.AppendRow(table.Row{r.Name, r.Owner, orNone(r.Point), localTime(r.Created), diskStates(all, r.Name), totalSize(r)})
	}
	return printTable(c.App.Writer, t, "")
}

// diskStates lists a checkpoint's disks and marks those whose bitmap is lost.
func diskStates(all []checkpoint.Checkpoint, name string) string {
	c, _ := checkpoint.Find(all, name)
	var words []string
	for _, d := range c.Disks {
		switch {
		case d.Bitmap == "":
		case d.Size < 0:
			words = append(words, d.Target+" (broken or unknown)")
		default:
			words = append(words, d.Target)
		}
	}
	return strings.Join(words, " ")
}

func totalSize(r checkpointRow) string {
	var total int64
	for _, n := range r.Bytes {
		if n < 0 {
			return "unknown"
		}
		total += n
	}
	return size(total)
}

func printSizes(c *cli.Context, all []checkpoint.Checkpoint) error {
	t := newTable(table.Row{"CHECKPOINT", "DISK", "INC WOULD COPY AT MOST"}, "INC WOULD COPY AT MOST")
	for _, ckpt := range all {
		for _, d := range ckpt.Disks {
			if d.Bitmap == "" {
				continue
			}
			text := "unknown"
			if d.Size >= 0 {
				text = size(d.Size)
			}
			t.AppendRow(table.Row{ckpt.Label(), d.Target, text})
		}
	}
	return printTable(c.App.Writer, t, "")
}

func orNone(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func localTime(t time.Time) string { return t.Local().Format(time.DateTime) }

func seconds(s float64) string { return fmt.Sprintf("%.1f s", s) }

// size prints bytes for people, in units of 1024.
func size(n int64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n), -1
	for value >= 1023.95 && unit < 4 { // what would print as 1024.0
		value /= 1024
		unit++
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTP"[unit])
}
