package view

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/virtbackup/virtbackup/backup"
	"github.com/virtbackup/virtbackup/internal/bytesize"
	"github.com/virtbackup/virtbackup/internal/terminal"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/recovery"
	"github.com/virtbackup/virtbackup/release"
	"github.com/virtbackup/virtbackup/restore"
	"github.com/virtbackup/virtbackup/restore/reading"
)

// Backup prints what a run did.
func Backup(w io.Writer, r backup.Result) error {
	m := r.Point
	since := ""
	if m.Parent != "" {
		since = " since " + m.Parent
	}
	_, image := sums(m)
	if _, err := fmt.Fprintf(w, "%s: %s%s of domain %s, %s consistent, %s in %s\n",
		m.ID, m.Kind, since, m.Domain, m.Consistency, bytesize.Short(image), seconds(r.Seconds)); err != nil {
		return err
	}
	if r.Why != "" && r.Why != "inc: since "+m.Parent { // the line above says so
		if _, err := fmt.Fprintf(w, "  %s\n", r.Why); err != nil {
			return err
		}
	}
	if err := Disks(w, m, r.Base, "  "); err != nil {
		return err
	}
	var also []string
	for _, e := range m.Extras {
		also = append(also, extraWord(e))
	}
	if len(also) > 0 {
		if _, err := fmt.Fprintf(w, "  also stored: %s\n", strings.Join(also, ", ")); err != nil {
			return err
		}
	}
	if len(m.LeftOut) == 0 {
		return nil
	}
	var left []string
	for _, d := range m.LeftOut {
		left = append(left, leftOut(d))
	}
	_, err := fmt.Fprintf(w, "  left out: %s\n", strings.Join(left, ", "))
	return err
}

// Restored prints what a restore wrote.
func Restored(w io.Writer, r restore.Result) error {
	if _, err := fmt.Fprintf(w, "restored %s of domain %s, taken %s, to %s in %s\n", r.Point, r.Domain, manifest.TimeText(r.Time), r.Dir, seconds(r.Seconds)); err != nil {
		return err
	}
	if err := restoredGrid(r).Print(w, "  "); err != nil {
		return err
	}
	if err := lost(w, r.Lost); err != nil {
		return err
	}
	if r.XML != "" {
		if _, err := fmt.Fprintf(w, "  the domain's XML as it was: %s\n", filepath.Base(r.XML)); err != nil {
			return err
		}
	}
	for _, e := range r.Extras {
		if _, err := fmt.Fprintf(w, "  its %s: %s\n", extraWord(e.Extra), filepath.Base(e.Restored)); err != nil {
			return err
		}
	}
	return nil
}

// Output prints where a disk was written.
func Output(w io.Writer, r restore.OutputResult) error {
	to := r.Output
	if to == restore.ToStdout {
		to = "standard output"
	}
	if _, err := fmt.Fprintf(w, "restored disk %s of %s of domain %s, taken %s, to %s (%s, %s) in %s\n",
		r.Target, r.Point, r.Domain, manifest.TimeText(r.Time), to, r.Format, bytesize.Short(r.VirtualSize), seconds(r.Seconds)); err != nil {
		return err
	}
	if err := lost(w, r.Lost); err != nil || r.Beyond == 0 {
		return err
	}
	_, err := fmt.Fprintf(w, "  the device is larger: the %s behind the disk are as they were\n", bytesize.Short(r.Beyond))
	return err
}

// maxLost parts are printed; JSON has them all.
const maxLost = 20

// lost prints the parts of disks that were filled with zeros.
func lost(w io.Writer, parts []reading.Lost) error {
	for i, l := range parts {
		if i == maxLost {
			_, err := fmt.Fprintf(w, "  lost: %d parts more (--json lists them)\n", len(parts)-i)
			return err
		}
		if _, err := fmt.Fprintf(w, "  lost: disk %s, %d bytes at offset %d, filled with zeros\n", l.Disk, l.Length, l.Offset); err != nil {
			return err
		}
	}
	return nil
}

func restoredGrid(r restore.Result) *terminal.Grid {
	g := &terminal.Grid{Columns: []terminal.Column{{Name: "DISK"}, {Name: "SIZE", Right: true, Spare: 2}, {Name: "DATA", Right: true, Spare: 1}, {Name: "IMAGE"}}}
	for _, d := range r.Disks {
		g.Add(d.Target, bytesize.Short(d.VirtualSize), bytesize.Short(d.DataBytes), filepath.Base(d.Image))
	}
	return g
}

// Recovered prints what was cleaned up.
func Recovered(w io.Writer, r recovery.Report) error {
	fixed, nothing := "cleaned up", "nothing to clean up"
	if r.DryRun {
		fixed = "to be cleaned up"
	}
	if len(r.Fixed)+len(r.Left) > 0 {
		nothing = ""
	}
	return sections(w, r.Domain, nothing, section{fixed, r.Fixed}, section{"left", r.Left}, section{"lost, no longer a base", r.Lost})
}

// Released prints what was taken out of libvirt and the repository.
func Released(w io.Writer, r release.Result) error {
	removed, nothing := "removed ", ""
	if r.DryRun {
		removed = "would remove "
	}
	if len(r.Checkpoints)+len(r.Points) == 0 {
		nothing = "nothing to release"
	}
	return sections(w, r.Domain, nothing, section{"cleaned up", r.Recovered},
		section{removed + "checkpoint", r.Checkpoints}, section{removed + "point", r.Points}, section{"note", r.Notes})
}

// Foreign prints a table, or only names if quiet is set.
func Foreign(w io.Writer, r release.ForeignResult, quiet bool) error {
	g := terminal.Grid{Columns: []terminal.Column{{Name: "CHECKPOINT"}, {Name: "CREATED", Spare: 1}, {Name: "REPOSITORY", Note: true}}}
	for _, f := range r.Foreign {
		if quiet {
			if _, err := fmt.Fprintln(w, f.Name); err != nil {
				return err
			}
		}
		g.Add(f.Name, manifest.TimeText(f.Created), f.Repository)
	}
	switch {
	case quiet:
		return nil
	case len(r.Foreign) == 0:
		_, err := fmt.Fprintf(w, "domain %s: no checkpoints of other repositories\n", r.Domain)
		return err
	}
	if err := g.Print(w, ""); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\nIf their repository is gone: virtbackup release %s --foreign CHECKPOINT...\n", manifest.ShellWord(r.Domain))
	return err
}
