package verify

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/lineage"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

// Status is what is known about a point.
type Status string

// The statuses.
const (
	OK         Status = "ok"          // every byte is as it was sealed
	Sampled    Status = "sampled"     // what was read of it is as it was sealed
	Looked     Status = "quick"       // what describes its data is as it was sealed
	Damaged    Status = "damaged"     // part of it is not
	Lost       Status = "lost"        // it is as it was sealed, but a point that it needs is not
	NotChecked Status = "not checked" // it was not requested
)

// Report is what a verification found.
type Report struct {
	Repository string         `json:"repository"`       // its directory
	Quick      bool           `json:"quick,omitempty"`  // no data was read
	Sample     int            `json:"sample,omitempty"` // percent of each file that were read; 0: all
	Time       time.Time      `json:"time"`             // when it ended, UTC
	Domains    []DomainReport `json:"domains"`
	Damage     []damage.Place `json:"damage"` // by domain, point, file and offset
	Warnings   []string       `json:"warnings,omitempty"`
	Bytes      int64          `json:"bytes"` // read
	Seconds    float64        `json:"seconds"`
}

// DomainReport is what was found for a domain.
type DomainReport struct {
	Domain string  `json:"domain"`
	Points []Point `json:"points"` // all of the domain, oldest first
	// Restores are the points that were verified and restore completely, oldest first.
	Restores []string `json:"restores"`
	// Newest is the newest point that was checked and in which no damage was found.
	Newest string   `json:"newest,omitempty"`
	Lost   []string `json:"lost"` // the points that do not restore, checked or not
	// Left are those for which there was no time.
	Left []string `json:"left,omitempty"`
}

// Point is what was found for a point.
type Point struct {
	ID     string        `json:"id"`
	Kind   manifest.Kind `json:"kind,omitempty"`
	Time   time.Time     `json:"time,omitzero"` // its instant
	Status Status        `json:"status"`
	// Restores: completely, proven by this verification; if it was a sample, with those before.
	Restores bool `json:"restores"`
	// Verified is when the byte of it, and of all that it needs, was proven that is oldest;
	// zero if some never were, or damage was found.
	Verified time.Time `json:"verified,omitzero"`
	// ProvenPercent is how much was ever proven of each file that it needs, at least, if that is
	// not everything.
	ProvenPercent int `json:"proven_percent,omitempty"`
	// LostDisks do not restore any more; the others do (restore --disk).
	LostDisks []string `json:"lost_disks,omitempty"`
	Disks     []string `json:"disks,omitempty"`
	// Hidden says that the point was removed, and is there because others need its images.
	Hidden bool `json:"hidden,omitempty"`

	Broken bool `json:"-"` // it does not restore whole
}

// DamagedError says that damage was found; the report lists all of it.
type DamagedError struct {
	report Report
}

// Err is nil if nothing is damaged, else a *DamagedError.
func (r Report) Err() error {
	if len(r.Damage) == 0 {
		return nil
	}
	return &DamagedError{r}
}

// Error counts what was found.
func (e *DamagedError) Error() string {
	lost := 0
	for _, d := range e.report.Domains {
		lost += len(d.Lost)
	}
	if lost == 0 && (e.report.Quick || e.report.Sample > 0) {
		return fmt.Sprintf("damage in %s; it breaks no point", count(len(e.report.Damage), "place"))
	}
	if lost == 0 {
		return fmt.Sprintf("damage in %s; every point that was checked still restores", count(len(e.report.Damage), "place"))
	}
	return fmt.Sprintf("damage in %s; %s cannot be restored whole", count(len(e.report.Damage), "place"), count(lost, "point"))
}

// Kind is fail.Damaged.
func (e *DamagedError) Kind() fail.Kind { return fail.Damaged }

// Hint says what still restores.
func (e *DamagedError) Hint() string {
	for _, d := range e.report.Domains {
		if id := d.newestHidden(); len(d.Lost) > 0 && d.Newest == "" && id != "" {
			return fmt.Sprintf("a removed point of domain %s restores: virtbackup prune %s --undo %s lists it again", d.Domain, manifest.ShellWord(d.Domain), id)
		}
		if len(d.Lost) > 0 && d.Newest != "" {
			return fmt.Sprintf("the newest of domain %s %s: virtbackup restore %s --at %s --to DIR", d.Domain, d.NewestIs(), manifest.ShellWord(d.Domain), d.Newest)
		}
	}
	return ""
}

// NewestIs says what is known of the newest point without damage.
func (r DomainReport) NewestIs() string {
	if slices.Contains(r.Restores, r.Newest) {
		return "that restores"
	}
	return "in which no damage was found"
}

// newestHidden is the newest point that was removed and restores; "" if there is none.
func (r DomainReport) newestHidden() (id string) {
	for _, p := range r.Points {
		if p.Hidden && p.Status != NotChecked && !p.Broken {
			id = p.ID
		}
	}
	return id
}

// sorted returns the damage in the order of the tree, each place with the points it breaks.
func (r *run) sorted(domains []*domainRun) []damage.Place {
	lineages := map[string]*lineage.Lineage{}
	for _, d := range domains {
		lineages[d.lineage.Domain] = d.lineage
	}
	for i, d := range r.damage {
		r.damage[i].Breaks = breaks(lineages[d.Domain], d)
	}
	slices.SortStableFunc(r.damage, func(a, b damage.Place) int {
		return cmp.Or(strings.Compare(a.Domain, b.Domain), cmp.Compare(number(a.Point), number(b.Point)),
			strings.Compare(a.Point, b.Point), strings.Compare(a.File, b.File), cmp.Compare(a.Offset, b.Offset))
	})
	return append([]damage.Place{}, r.damage...)
}

func number(id string) int {
	_, n, _ := manifest.ParsePointID(id)
	return n
}

// breaks returns the points that cannot be restored completely because of this damage.
func breaks(l *lineage.Lineage, d damage.Place) []string {
	broken := []string{}
	if l == nil || d.Harmless {
		return broken
	}
	lost, own := lostBy(l, []damage.Place{d})
	_, readable := l.Point(d.Point)
	if own[d.Point] && !readable {
		broken = append(broken, d.Point)
	}
	for _, m := range l.Points {
		if own[m.ID] || len(lost[m.ID]) > 0 {
			broken = append(broken, m.ID)
		}
	}
	return broken
}

// lostBy returns the effect of damage on the points of a domain: the disks that each has
// lost, and the points with other damaged files.
func lostBy(l *lineage.Lineage, damage []damage.Place) (disks map[string][]string, own map[string]bool) {
	own = map[string]bool{}
	whole := map[string]bool{}
	images := map[manifest.ImageRef]bool{}
	for _, d := range damage {
		if d.Harmless || d.Domain != l.Domain {
			continue
		}
		if ref, ok := d.Image(); ok {
			images[ref] = true
			continue
		}
		own[d.Point] = true
		_, readable := l.Point(d.Point)
		whole[d.Point] = !readable
	}
	return l.Lost(func(ref manifest.ImageRef) bool { return whole[ref.Point] || images[ref] }), own
}

// report returns what was found for a domain, and records it.
func (d *domainRun) report(now time.Time) DomainReport {
	r := DomainReport{Domain: d.lineage.Domain, Restores: []string{}, Lost: []string{}, Left: d.left}
	lost, own := lostBy(d.lineage, d.damage)
	for _, p := range d.points() {
		if m, ok := d.lineage.Point(p.ID); ok {
			p.Kind, p.Time = m.Kind, m.Time
			for _, disk := range m.Disks {
				p.Disks = append(p.Disks, disk.Target)
			}
		}
		p.LostDisks = lost[p.ID]
		p.Broken = own[p.ID] || len(p.LostDisks) > 0
		p.Restores = p.Status != NotChecked && !p.Broken
		switch {
		case slices.ContainsFunc(d.damage, func(x damage.Place) bool { return x.Domain == r.Domain && x.Point == p.ID }):
			p.Status = Damaged
		case p.Broken:
			p.Status = Lost
		}
		p.Hidden = d.isHidden(p.ID)
		r.Points = append(r.Points, p)
	}
	known := d.note(now)
	for i := range r.Points {
		r.add(&r.Points[i], known, d.run)
	}
	return r
}

// add completes a point by what is known of it now, and lists it.
func (r *DomainReport) add(p *Point, known *repository.Proofs, by *run) {
	if v := known.Verified()[p.ID]; v.Sound && !p.Broken {
		p.Verified = v.Time
	} else if !p.Broken {
		p.ProvenPercent = known.Percent()[p.ID]
	}
	unbroken := p.Restores
	switch {
	case by.Quick:
		p.Restores = false // this proves nothing
	case by.Sample > 0 || by.MaxDuration > 0: // what was read now is not all that the point needs
		p.Restores = unbroken && !p.Verified.IsZero()
	}
	switch {
	case p.Hidden:
		return
	case p.Broken:
		r.Lost = append(r.Lost, p.ID)
	}
	if p.Restores {
		r.Restores = append(r.Restores, p.ID)
	}
	if unbroken {
		r.Newest = p.ID
	}
}

// checked is the status of a point in which no damage is found.
func (d *domainRun) checked() Status {
	switch {
	case d.Quick:
		return Looked
	case d.Sample > 0:
		return Sampled
	}
	return OK
}

// points returns all points of the domain, including those that cannot be read and those
// that are missing, oldest first.
func (d *domainRun) points() []Point {
	status := map[string]Status{}
	for _, m := range d.lineage.Points {
		status[m.ID] = NotChecked
	}
	for _, m := range d.chosen {
		status[m.ID] = d.checked()
	}
	for _, p := range d.lineage.Unreadable {
		status[p.ID] = NotChecked
	}
	for _, x := range d.damage {
		if x.Domain == d.lineage.Domain && x.Point != "" { // instants.json is of none
			status[x.Point] = Damaged
		}
	}
	var points []Point
	for id, s := range status {
		points = append(points, Point{ID: id, Status: s})
	}
	slices.SortFunc(points, func(a, b Point) int {
		return cmp.Or(cmp.Compare(number(a.ID), number(b.ID)), strings.Compare(a.ID, b.ID))
	})
	return points
}
