package view

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/virtbackup/virtbackup/drill/record"
	"github.com/virtbackup/virtbackup/internal/bytesize"
	"github.com/virtbackup/virtbackup/internal/terminal"
	"github.com/virtbackup/virtbackup/keep"
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

// diskRemark names the disks whose kind differs from that of the point, with the reason,
// unless it was the same for the parent.
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
			continue // as for a raw disk, every time
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

// Shown is a point with what show says of it.
type Shown struct {
	manifest.Manifest
	// Protected is what keeps the point from being removed, nil if nothing does.
	Protected *keep.Protection `json:"protected,omitempty"`
	// Pinned is what uses the point, or one that needs it; "" if nothing does.
	Pinned string `json:"pinned,omitempty"`
	// Drill is the result of the last drill of the point, nil if there was none.
	Drill *record.Record `json:"drill,omitempty"`
}

// Point prints a point in full. If quiet is set, the table of its disks is left out.
func Point(w io.Writer, repo *repository.Repository, p Shown, quiet bool) error {
	m := p.Manifest
	lines := [][2]string{
		{"point", m.ID}, {"domain", m.Domain + " (" + m.DomainUUID + ")"}, {"kind", string(m.Kind)},
		{"parent", orNone(m.Parent)}, {"checkpoint", orNone(m.Checkpoint)},
		{"time", manifest.TimeTextFine(m.Time)},
		{"took", m.Finished.Sub(m.Time).Round(time.Millisecond).String()},
		{"consistency", m.Consistency},
		{"made by", fmt.Sprintf("virtbackup %s, libvirt %s, QEMU %s", m.Versions.Virtbackup, m.Versions.Libvirt, m.Versions.QEMU)},
		{"directory", repo.PointDir(m.Domain, m.ID)},
	}
	if p.Protected != nil {
		lines = append(lines, [2]string{"protected", cmp.Or(strings.TrimLeft(strings.TrimPrefix(p.Protected.String(), "protected"), ": "), "yes")})
	}
	if p.Pinned != "" {
		lines = append(lines, [2]string{"pinned", p.Pinned})
	}
	if p.Drill != nil {
		lines = append(lines, [2]string{"booted", bootedText(*p.Drill)})
	}
	if m.Synthetic {
		lines = append(lines, [2]string{"synthetic", "made standalone from the points that it was chained onto"})
	}
	if len(m.Merged) > 0 {
		lines = append(lines, [2]string{"merged", strings.Join(m.Merged, " ")})
	}
	if !m.FullTime.IsZero() {
		lines = append(lines, [2]string{"read in full", manifest.TimeText(m.FullTime)})
	}
	if m.Autostart {
		lines = append(lines, [2]string{"autostart", "yes"})
	}
	for _, e := range m.Extras {
		lines = append(lines, [2]string{"also", extra(e)})
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
	return Disks(w, m, manifest.Manifest{}, "")
}

// extraWords are the kinds of extras, for people.
var extraWords = map[manifest.ExtraKind]string{
	manifest.ExtraNVRAM: "UEFI variables", manifest.ExtraLoader: "firmware", manifest.ExtraKernel: "kernel", manifest.ExtraInitrd: "initrd",
	manifest.ExtraDTB: "device tree", manifest.ExtraShim: "shim", manifest.ExtraACPI: "ACPI table", manifest.ExtraTPM: "state of the TPM",
}

func extraWord(e manifest.Extra) string { return cmp.Or(extraWords[e.Kind], string(e.Kind)) }

// extra describes a file of a point that is no disk.
func extra(e manifest.Extra) string {
	text := fmt.Sprintf("%s, %s in %s", extraWord(e), bytesize.Short(e.Size), e.File)
	if e.Path != "" {
		text += ", from " + e.Path
	}
	return text
}

func leftOut(d manifest.LeftOut) string { return fmt.Sprintf("disk %s (%s)", d.Target, d.Reason) }

// Disks prints a table of the disks. Notes that the parent has, too, are left out; a zero
// parent has none.
func Disks(w io.Writer, m, parent manifest.Manifest, indent string) error {
	g := terminal.Grid{Columns: []terminal.Column{{Name: "DISK"}, {Name: "KIND", Spare: 1}, {Name: "SIZE", Right: true, Spare: 3}, {Name: "DATA", Right: true},
		{Name: "ZEROS", Right: true, Spare: 4}, {Name: "IMAGE", Right: true}, {Name: "PARENT", Spare: 2}, {Name: "SOURCE", Spare: 5}, {Name: "NOTE", Note: true}}}
	for _, d := range m.Disks {
		note := diskNote(d)
		if before, ok := parent.Disk(d.Target); ok && diskNote(before) == note {
			note = ""
		}
		g.Add(d.Target, d.Kind, bytesize.Short(d.VirtualSize), bytesize.Short(d.DataBytes), bytesize.Short(d.ZeroBytes), bytesize.Short(d.ImageBytes), d.Parent, d.Source, note)
	}
	return g.Print(w, indent)
}

// diskNote is what should be known about a disk of a point.
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
