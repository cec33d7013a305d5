package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

func sums(m manifest.Manifest) (data, image int64) {
	for _, d := range m.Disks {
		data += d.DataBytes
		image += d.ImageBytes
	}
	return data, image
}

func targets(m manifest.Manifest) string {
	var names []string
	for _, d := range m.Disks {
		names = append(names, d.Target)
	}
	return strings.Join(names, " ")
}

// diskRemark says which disks are not what the point's kind says, and why, unless that is
// as it was with the parent.
func diskRemark(m, parent manifest.Manifest) string {
	var order []string
	disks := map[string][]string{}
	for _, d := range m.Disks {
		how := ""
		switch {
		case d.Method == manifest.MethodRescan:
			how = "rescanned"
		case d.Kind == manifest.KindFull && (m.Kind == manifest.KindInc || m.Kind == manifest.KindDiff):
			how = "in full"
		default:
			continue
		}
		if d.Reason != "" {
			how += ": " + d.Reason
		}
		if before, ok := parent.Disk(d.Target); ok && d.Method == manifest.MethodRescan && before.Method == d.Method && before.Reason == d.Reason {
			continue // as of a raw disk, every time
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

// printPoint prints all of a point; without the table of its disks where it shall be quiet.
func printPoint(w io.Writer, repo *repository.Repository, m manifest.Manifest, quiet bool) error {
	lines := [][2]string{
		{"point", m.ID}, {"domain", m.Domain + " (" + m.DomainUUID + ")"}, {"kind", string(m.Kind)},
		{"parent", orNone(m.Parent)}, {"checkpoint", orNone(m.Checkpoint)},
		{"time", manifest.TimeTextFine(m.Time)},
		{"took", m.Finished.Sub(m.Time).Round(time.Millisecond).String()},
		{"consistency", m.Consistency},
		{"made by", fmt.Sprintf("virtbackup %s, libvirt %s, QEMU %s", m.Versions.Virtbackup, m.Versions.Libvirt, m.Versions.QEMU)},
		{"directory", repo.PointDir(m.Domain, m.ID)},
	}
	for _, d := range m.LeftOut {
		lines = append(lines, [2]string{"left out", leftOut(d)})
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
	if quiet {
		return nil
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	return printDisks(w, m, manifest.Manifest{}, "")
}

func leftOut(d manifest.LeftOut) string { return fmt.Sprintf("disk %s (%s)", d.Target, d.Reason) }

// printDisks prints a table. Notes that the parent has, too, are no news; a zero parent
// has none.
func printDisks(w io.Writer, m, parent manifest.Manifest, indent string) error {
	g := grid{columns: []column{{name: "DISK"}, {name: "KIND", spare: 1}, {name: "SIZE", right: true, spare: 3}, {name: "DATA", right: true},
		{name: "ZEROS", right: true, spare: 4}, {name: "IMAGE", right: true}, {name: "PARENT", spare: 2}, {name: "SOURCE", spare: 5}, {name: "NOTE", note: true}}}
	for _, d := range m.Disks {
		note := diskNote(d)
		if before, ok := parent.Disk(d.Target); ok && diskNote(before) == note {
			note = ""
		}
		g.add(d.Target, d.Kind, size(d.VirtualSize), size(d.DataBytes), size(d.ZeroBytes), size(d.ImageBytes), d.Parent, d.Source, note)
	}
	return g.print(w, indent)
}

// diskNote is what a reader of a point should know of one of its disks.
func diskNote(d manifest.Disk) string {
	switch note := "encrypted at its source, stored in the clear"; {
	case !d.SourceEncrypted:
		return d.Reason
	case d.Reason == "":
		return note
	default:
		return d.Reason + "; " + note
	}
}
