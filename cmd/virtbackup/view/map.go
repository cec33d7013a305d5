package view

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/virtbackup/virtbackup/diskmap"
	"github.com/virtbackup/virtbackup/internal/bytesize"
	"github.com/virtbackup/virtbackup/internal/terminal"
	"github.com/virtbackup/virtbackup/manifest"
)

// MapWidth is how many characters a disk gets.
const MapWidth = 64

// Map is where the disks of a point have data, zeros and changes.
type Map struct {
	Point manifest.Manifest
	Disks []MappedDisk
}

// MappedDisk is one of the disks.
type MappedDisk struct {
	manifest.Disk
	diskmap.Survey
	// Each calls do with the disk's extents, which are too many to be kept.
	Each func(do func(diskmap.Extent) error) error
}

// Text prints a line for each disk, in which a character is a part of it.
func (m Map) Text(w io.Writer) error {
	since := ""
	if m.Point.Parent != "" {
		since = " since " + m.Point.Parent
	}
	if _, err := fmt.Fprintf(w, "%s: %s%s of domain %s, taken %s\n", m.Point.ID, m.Point.Kind, since, m.Point.Domain, manifest.TimeText(m.Point.Time)); err != nil {
		return err
	}
	g := &terminal.Grid{Columns: []terminal.Column{{Name: "DISK"}, {Name: "SIZE", Right: true}, {Name: "DATA", Right: true}, {Name: "CHANGED", Right: true}, {Name: "PER CHARACTER", Right: true}}}
	wide, changes := 0, false
	for _, d := range m.Disks {
		changed := "-"
		if d.Parent != "" {
			changed, changes = bytesize.Short(d.Changed), true
		}
		g.Add(d.Target, bytesize.Short(d.VirtualSize), bytesize.Short(d.Data), changed, bytesize.Short(d.Bucket))
		wide = max(wide, len(d.Target))
	}
	if err := g.Print(w, "  "); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	for _, d := range m.Disks {
		if _, err := fmt.Fprintf(w, "  %-*s  %s\n", wide, d.Target, d.line()); err != nil {
			return err
		}
	}
	legend := "  . zeros  o data"
	if changes {
		legend += "  # changed" + since
	}
	_, err := fmt.Fprintf(w, "\n%s\n", legend)
	return err
}

// line has a character for each part: what is changed stands out, then what has data.
func (d MappedDisk) line() string {
	var line []byte
	for _, s := range d.Buckets {
		switch {
		case s.Changed > 0 && d.Parent != "":
			line = append(line, '#')
		case s.Data > 0:
			line = append(line, 'o')
		default:
			line = append(line, '.')
		}
	}
	return string(line)
}

// JSON prints the extents of all disks as they are read: there may be millions.
func (m Map) JSON(w io.Writer) error {
	out := &jsonWriter{w: bufio.NewWriter(w)}
	out.print(`{"domain": %s, "point": %s, "time": %s, "kind": %s, "parent": %s, "disks": [`,
		m.Point.Domain, m.Point.ID, m.Point.Time.Format(time.RFC3339Nano), m.Point.Kind, m.Point.Parent)
	for i, d := range m.Disks {
		out.separate(i)
		out.print(`{"target": %s, "virtual_size": %s, "parent": %s, "data_bytes": %s, "changed_bytes": %s, "extents": [`,
			d.Target, d.VirtualSize, d.Parent, d.Data, d.Changed)
		n := 0
		err := d.Each(func(e diskmap.Extent) error {
			out.separate(n)
			n++
			out.print(`{"offset": %s, "length": %s, "status": %s, "changed": %s}`, e.Offset, e.Length, e.Status.String(), e.Changed)
			return out.err
		})
		if err != nil {
			return err
		}
		out.print("\n]}")
	}
	out.print("\n]}\n")
	if out.err != nil {
		return out.err
	}
	return out.w.Flush()
}

// jsonWriter prints values as JSON, up to its first error.
type jsonWriter struct {
	w   *bufio.Writer
	err error
}

// print prints values as JSON for each %s of a format.
func (j *jsonWriter) print(format string, values ...any) {
	texts := make([]any, len(values))
	for i, v := range values {
		text, err := json.Marshal(v)
		if err != nil && j.err == nil {
			j.err = err
		}
		texts[i] = text
	}
	if j.err == nil {
		_, j.err = fmt.Fprintf(j.w, format, texts...)
	}
}

// separate begins entry i of a list.
func (j *jsonWriter) separate(i int) {
	if i > 0 {
		j.print(",")
	}
	j.print("\n")
}
