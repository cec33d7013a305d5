package view

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/internal/bytesize"
	"github.com/virtbackup/virtbackup/internal/terminal"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/verify"
)

// Verification prints the damage, and then, unless quiet is set, the state of all points.
func Verification(w io.Writer, r verify.Report, quiet bool) error {
	var b strings.Builder
	for _, d := range groupDamage(r.Damage) {
		damagedFile(&b, d)
	}
	if _, err := io.WriteString(w, b.String()); err != nil || quiet {
		return err
	}
	for _, d := range r.Domains {
		if err := verifiedPoints(w, d, r); err != nil {
			return err
		}
	}
	none := ""
	if len(r.Domains) == 0 {
		none = "no points yet\n"
	}
	_, err := fmt.Fprintf(w, "%sread %s in %s\n", none, bytesize.Short(r.Bytes), seconds(r.Seconds))
	return err
}

// groupDamage groups places in the same file with the same consequences.
func groupDamage(all []damage.Place) [][]damage.Place {
	var groups [][]damage.Place
	for _, d := range all {
		n := len(groups)
		if n > 0 && groups[n-1][0].File == d.File && groups[n-1][0].Harmless == d.Harmless {
			groups[n-1] = append(groups[n-1], d)
			continue
		}
		groups = append(groups, []damage.Place{d})
	}
	return groups
}

// More places and ranges than these are only counted; --json has them all.
const (
	maxPlaces = 20
	maxRanges = 8
)

func damagedFile(b *strings.Builder, places []damage.Place) {
	first := places[0]
	fmt.Fprintf(b, "DAMAGED  %s\n", first.File)
	for i, d := range places {
		if i == maxPlaces {
			fmt.Fprintf(b, "  and %d more places (--json has them all)\n", len(places)-i)
			break
		}
		if d.Length > 0 {
			fmt.Fprintf(b, "  %d bytes at offset %d: %s\n", d.Length, d.Offset, d.What)
		} else {
			fmt.Fprintf(b, "  %s\n", d.What)
		}
		if d.Disk != "" && !d.Harmless {
			fmt.Fprintf(b, "    disk %s of the guest: %s\n", d.Disk, guestRanges(d))
		}
	}
	if len(first.Breaks) == 0 {
		b.WriteString("  nothing is lost: no restore reads it\n\n")
		return
	}
	fmt.Fprintf(b, "  lost with it: %s\n\n", strings.Join(first.Breaks, " "))
}

// guestRanges lists the parts of the guest's disk that a damaged place holds.
func guestRanges(d damage.Place) string {
	switch {
	case d.WholeDisk:
		return "any part of it may be affected"
	case len(d.Guest) == 0:
		return "no data of it lies there"
	}
	var words []string
	for i, g := range d.Guest {
		if i == maxRanges {
			words = append(words, fmt.Sprintf("and %d more ranges (--json has them all)", len(d.Guest)-i))
			break
		}
		words = append(words, fmt.Sprintf("%d bytes at offset %d", g.Length, g.Offset))
	}
	return strings.Join(words, ", ")
}

// verifiedPoints prints the points of a domain that were checked or are known to be lost.
func verifiedPoints(w io.Writer, d verify.DomainReport, r verify.Report) error {
	if _, err := fmt.Fprintln(w, d.Domain); err != nil {
		return err
	}
	g := terminal.Grid{Columns: []terminal.Column{{Name: "POINT"}, {Name: "KIND", Spare: 1}, {Name: "TIME", Spare: 2}, {Name: "FILES"}, {Name: "RESTORES", Note: true}}}
	others := 0
	for _, p := range d.Points {
		if p.Status == verify.NotChecked {
			if !slices.Contains(d.Left, p.ID) {
				others++
			}
			continue
		}
		at := "-"
		if !p.Time.IsZero() {
			at = manifest.TimeText(p.Time)
		}
		g.Add(p.ID, orNone(string(p.Kind)), at, filesOf(p), restoresOf(p, r))
	}
	if err := g.Print(w, "  "); err != nil {
		return err
	}
	last := ""
	if others > 0 {
		last = "  1 other point was not checked\n"
	}
	if others > 1 {
		last = fmt.Sprintf("  %d other points were not checked\n", others)
	}
	if len(d.Left) > 0 {
		last += fmt.Sprintf("  left for the next run: %s\n", strings.Join(d.Left, " "))
	}
	switch {
	case len(d.Points) == 0:
		last = "  no points yet\n"
	case len(d.Lost) == 0:
	case d.Newest == "":
		last += "  none of the points that were checked restores whole\n"
	default:
		last += fmt.Sprintf("  the newest %s: %s    virtbackup restore %s --at %s --to DIR\n", d.NewestIs(), d.Newest, manifest.ShellWord(d.Domain), d.Newest)
	}
	_, err := fmt.Fprintln(w, last)
	return err
}

func filesOf(p verify.Point) string {
	if p.Status == verify.Lost {
		return string(verify.OK)
	}
	return string(p.Status)
}

func restoresOf(p verify.Point, r verify.Report) string {
	switch {
	case p.Hidden && len(p.LostDisks) == 0:
		return "removed; others need it"
	case p.Broken:
		return lostOf(p)
	case r.Quick && !p.Verified.IsZero():
		return "not proven now; verified " + day(p.Verified)
	case r.Sample > 0 && p.Restores:
		return "yes; all was read since " + day(p.Verified)
	case p.Restores:
		return "yes"
	case p.ProvenPercent > 0:
		return fmt.Sprintf("not known yet; %d%% was read", p.ProvenPercent)
	}
	return "not known yet"
}

func day(t time.Time) string { return t.Local().Format(time.DateOnly) }

// lostOf says what of a point does not restore.
func lostOf(p verify.Point) string {
	if len(p.LostDisks) == len(p.Disks) {
		return "NO"
	}
	left := []string{}
	for _, disk := range p.Disks {
		if !strings.Contains(" "+strings.Join(p.LostDisks, " ")+" ", " "+disk+" ") {
			left = append(left, "--disk "+disk)
		}
	}
	lost := strings.Join(p.LostDisks, " ")
	if lost == "" {
		lost = "whole" // a file that is no disk is damaged
	}
	return fmt.Sprintf("NOT %s; %s does", lost, strings.Join(left, " "))
}
