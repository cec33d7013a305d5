package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/virtbackup/virtbackup/repository"
)

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
