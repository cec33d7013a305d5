package view

import (
	"fmt"
	"io"
	"strings"

	"github.com/virtbackup/virtbackup/internal/bytesize"
	"github.com/virtbackup/virtbackup/internal/terminal"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/restore/inplace"
)

// Overwrite prints what a restore in place is about to overwrite.
func Overwrite(w io.Writer, o inplace.Overwrite) error {
	if _, err := fmt.Fprintf(w, "domain %s is put back to %s, taken %s:\n", o.Domain, o.Point.ID, manifest.TimeText(o.Point.Time)); err != nil {
		return err
	}
	if err := inPlaceGrid(o.Disks, !o.Stops).Print(w, "  "); err != nil {
		return err
	}
	if err := lost(w, o.Lost); err != nil {
		return err
	}
	for _, line := range overwriteLines(o) {
		if _, err := fmt.Fprintf(w, "  %s\n", line); err != nil {
			return err
		}
	}
	return nil
}

func overwriteLines(o inplace.Overwrite) (lines []string) {
	if o.Stops {
		lines = append(lines, "the domain runs, and is shut down first")
	}
	if o.DiscardsSave {
		lines = append(lines, "its managed save is discarded: what was in its memory is lost")
	}
	switch {
	case o.Resumed:
		at := ""
		if !o.Killed.IsZero() {
			at = " at " + manifest.TimeText(o.Killed)
		}
		lines = append(lines, fmt.Sprintf("a restore was killed%s: the disks hold a mixture, of which nothing is kept, nor of what was written since then", at))
		if o.Saved != nil {
			lines = append(lines, fmt.Sprintf("%s is the state before that restore", o.Saved.ID))
		}
	case o.Saved != nil:
		lines = append(lines, fmt.Sprintf("the present state is kept as %s", o.Saved.ID))
	case o.Stops && o.Saves:
		lines = append(lines, "a point of its present state is made then")
	default:
		lines = append(lines, fmt.Sprintf("the present state is not kept: what was written since %s, taken %s, is lost", o.Newest.ID, manifest.TimeText(o.Newest.Time)))
	}
	for _, path := range o.Extras {
		lines = append(lines, "overwritten, too: "+path)
	}
	if len(o.LeftAlone) > 0 {
		lines = append(lines, "left as they are: "+strings.Join(o.LeftAlone, ", "))
	}
	for _, why := range o.Shared {
		lines = append(lines, "take care that no other host runs the domain: "+why)
	}
	if o.OtherXML {
		lines = append(lines, fmt.Sprintf("the domain was defined differently at %s; its definition stays as it is now", o.Point.ID))
	}
	return lines
}

// RestoredInPlace prints what a restore in place has done.
func RestoredInPlace(w io.Writer, r inplace.Result) error {
	if _, err := fmt.Fprintf(w, "put domain %s back to %s, taken %s, in %s\n", r.Domain, r.Point, manifest.TimeText(r.Time), seconds(r.Seconds)); err != nil {
		return err
	}
	if err := inPlaceGrid(r.Disks, true).Print(w, "  "); err != nil {
		return err
	}
	if err := lost(w, r.Lost); err != nil {
		return err
	}
	if r.Saved != "" {
		if _, err := fmt.Fprintf(w, "  the state before is %s\n", r.Saved); err != nil {
			return err
		}
	}
	if len(r.LeftAlone) > 0 {
		if _, err := fmt.Fprintf(w, "  left as they are: %s\n", strings.Join(r.LeftAlone, ", ")); err != nil {
			return err
		}
	}
	for _, note := range r.Notes {
		if _, err := fmt.Fprintf(w, "  %s\n", note); err != nil {
			return err
		}
	}
	if r.Stopped {
		if _, err := fmt.Fprintf(w, "the domain was shut down, and is off now\nnext: virsh start %s\n", manifest.ShellWord(r.Domain)); err != nil {
			return err
		}
	}
	return nil
}

// inPlaceGrid shows disks; what differs may not be known yet.
func inPlaceGrid(disks []inplace.Disk, known bool) *terminal.Grid {
	g := &terminal.Grid{Columns: []terminal.Column{{Name: "DISK"}, {Name: "SIZE", Right: true, Spare: 2}, {Name: "WRITTEN", Right: true, Spare: 1}, {Name: "IMAGE"}, {Name: "HOW", Spare: 3}}}
	for _, d := range disks {
		size, written, how := bytesize.Short(d.VirtualSize), "-", ""
		if known {
			written, how = bytesize.Short(d.Bytes), d.By
		}
		if d.ResizedFrom > 0 {
			size = fmt.Sprintf("%s, was %s", size, bytesize.Short(d.ResizedFrom))
		}
		g.Add(d.Target, size, written, d.Path, how)
	}
	return g
}
