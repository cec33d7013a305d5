package view

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/virtbackup/virtbackup/checkpoint"
	"github.com/virtbackup/virtbackup/internal/bytesize"
	"github.com/virtbackup/virtbackup/internal/terminal"
	"github.com/virtbackup/virtbackup/manifest"
)

// CheckpointRow is a checkpoint in JSON.
type CheckpointRow struct {
	Name    string    `json:"name"`
	Owner   string    `json:"owner"`
	Point   string    `json:"point,omitempty"`
	Created time.Time `json:"created"`
	// Bytes is how much is dirty, by disk. An incremental copies no more than that, and
	// less if the guest has trimmed or zeroed since. -1 means that the bitmap is missing
	// or broken, or that the domain is shut off.
	Bytes  map[string]int64 `json:"bytes"`
	Broken []string         `json:"broken,omitempty"`
}

// CheckpointRows are checkpoints in JSON.
func CheckpointRows(all []checkpoint.Checkpoint) []CheckpointRow {
	rows := []CheckpointRow{}
	for _, c := range all {
		row := CheckpointRow{Name: c.Name, Owner: c.Owner(), Created: c.Created.UTC(), Bytes: map[string]int64{}, Broken: c.Broken()}
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

// Checkpoints prints a table, or only names if quiet is set.
func Checkpoints(w io.Writer, all []checkpoint.Checkpoint, quiet bool) error {
	switch {
	case quiet:
		return checkpointNames(w, all)
	case len(all) == 0:
		_, err := fmt.Fprintln(w, "no checkpoints")
		return err
	}
	// Sizes are left out before owners: checkpoint size shows them, too.
	g := terminal.Grid{Columns: []terminal.Column{{Name: "CHECKPOINT"}, {Name: "OWNER"}, {Name: "POINT", Spare: 3}, {Name: "CREATED", Spare: 2},
		{Name: "DISKS", Note: true}, {Name: atMost, Right: true, Spare: 1}}}
	for _, r := range CheckpointRows(all) {
		g.Add(r.Name, r.Owner, orNone(r.Point), manifest.TimeText(r.Created), diskStates(all, r.Name), totalSize(r))
	}
	return g.Print(w, "")
}

// atMost is the title of what an inc would copy: zeros are dirty, but not copied.
const atMost = "INC COPIES AT MOST"

func checkpointNames(w io.Writer, all []checkpoint.Checkpoint) error {
	for _, c := range all {
		if _, err := fmt.Fprintln(w, c.Name); err != nil {
			return err
		}
	}
	return nil
}

// diskStates lists the disks of a checkpoint and marks those whose bitmap is lost.
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

func totalSize(r CheckpointRow) string {
	var total int64
	for _, n := range r.Bytes {
		if n < 0 {
			return "unknown"
		}
		total += n
	}
	return bytesize.Short(total)
}

// Sizes prints a table, or, if quiet is set, lines of full name, disk and bytes.
func Sizes(w io.Writer, all []checkpoint.Checkpoint, quiet bool) error {
	g := terminal.Grid{Columns: []terminal.Column{{Name: "CHECKPOINT"}, {Name: "DISK"}, {Name: atMost, Right: true}}}
	for _, ckpt := range all {
		for _, d := range ckpt.Disks {
			text := "unknown"
			switch {
			case d.Bitmap == "":
				continue
			case quiet:
				if _, err := fmt.Fprintln(w, ckpt.Name, d.Target, d.Size); err != nil {
					return err
				}
			case d.Size >= 0:
				text = bytesize.Short(d.Size)
			}
			g.Add(ckpt.Label(), d.Target, text)
		}
	}
	if quiet {
		return nil
	}
	return g.Print(w, "")
}
