package repository

import (
	"maps"
	"slices"
	"time"

	"github.com/virtbackup/virtbackup/lineage"
	"github.com/virtbackup/virtbackup/manifest"
)

// clockSlack is how far ahead of this host's clock a date may be: another host's clock that
// writes to the repository may differ a little. Dates beyond are those of a wrong clock, and
// count as never.
const clockSlack = time.Minute

// Proofs say when the bytes of a domain's points were last proven. A point is verified if every
// byte of it and of all that its disks need was, dated by the one proven longest ago.
type Proofs struct {
	own      map[string]map[string]Dates // by point and file: its images and extras
	verified map[string]Verification     // of points proven as a whole, or found damaged
	percent  map[string]int              // of points proven in part
}

// Proofs returns what is known of points that were read before, as they were then.
func (r *Repository) Proofs(l *lineage.Lineage) *Proofs {
	return r.readVerified(l.Domain).proofs(l, time.Now())
}

// Verified are the points that are verified, and those found damaged, by their ids.
func (p *Proofs) Verified() map[string]Verification { return p.verified }

// Percent is, of points that were proven in part only, how much of each file that the point
// needs was proven at least: from 1 to 99.
func (p *Proofs) Percent() map[string]int { return p.percent }

// Dates are those of a file of a point.
func (p *Proofs) Dates(id, file string) Dates { return p.own[id][file] }

// Own is when the byte of a point's own files was read that is oldest, right or wrong, in
// milliseconds since 1970 (0: never), and how much of each was ever read at least, in percent.
func (p *Proofs) Own(id string) (oldest int64, percent int) {
	t := newTally()
	for _, d := range p.own[id] {
		t.add(d.looks())
	}
	return t.result()
}

// tally is what the parts of some files have in common.
type tally struct {
	none    bool // no file yet
	oldest  int64
	percent int
}

func newTally() tally { return tally{none: true} }

func (t *tally) add(d Dates) { t.join(d.since(), d.proven()) }

func (t *tally) join(oldest int64, percent int) {
	if t.none {
		*t = tally{false, oldest, percent}
		return
	}
	t.oldest, t.percent = min(t.oldest, oldest), min(t.percent, percent)
}

func (t *tally) result() (oldest int64, percent int) {
	if t.none {
		return 0, 0
	}
	return t.oldest, t.percent
}

// proofs derives what the file says of points as they are now.
func (f verifiedFile) proofs(l *lineage.Lineage, now time.Time) *Proofs {
	p := &Proofs{map[string]map[string]Dates{}, map[string]Verification{}, map[string]int{}}
	limit := now.Add(clockSlack)
	images := map[manifest.ImageRef]tally{} // with all below each
	for _, m := range l.All() {             // parents before their children
		digest, _ := l.Digest(m.ID)
		entry, known := f.Points[m.ID]
		if known = known && entry.Manifest == digest && (!entry.Sound || !entry.Time.After(limit)); !known {
			entry = Verification{}
		}
		own := f.own(m, digest, entry, known, limit.UnixMilli())
		p.own[m.ID] = own
		all := newTally()
		for _, d := range m.Disks {
			t := newTally()
			t.add(own[d.Image])
			if slices.Contains(entry.Lost, d.Target) || slices.Contains(entry.Structure, d.Target) {
				t.oldest = 0
			}
			f.below(&t, l, m, d, entry, images)
			images[manifest.ImageRef{Point: m.ID, Image: d.Image}] = t
			all.join(t.result())
		}
		for _, e := range m.Extras {
			all.add(own[e.File])
		}
		oldest, percent := all.result()
		switch {
		case known && !entry.Sound:
			p.verified[m.ID] = entry
		case known && (all.none || oldest == entry.Time.UnixMilli()):
			p.verified[m.ID] = entry
		case oldest > 0:
			p.verified[m.ID] = Verification{Time: time.UnixMilli(oldest).UTC(), Manifest: digest, Sound: true}
		case percent > 0:
			p.percent[m.ID] = min(percent, Parts-1)
		}
	}
	return p
}

// below joins to an image's tally that of the image it is chained onto.
func (f verifiedFile) below(t *tally, l *lineage.Lineage, m manifest.Manifest, d manifest.Disk, entry Verification, images map[manifest.ImageRef]tally) {
	if d.Parent == "" {
		return
	}
	ref, err := l.Parent(m, d)
	if err != nil {
		t.join(0, 0)
		return
	}
	parent := images[ref]
	// Earlier versions note of a damaged point nothing of its sound disks, but of its children that
	// they restore.
	doubt, doubted := f.Points[ref.Point]
	digest, _ := l.Digest(ref.Point)
	if parent.oldest == 0 && doubted && doubt.Manifest == digest && !doubt.Sound && !slices.Contains(slices.Concat(doubt.Lost, doubt.Structure), d.Target) && entry.Sound && !entry.Time.Before(doubt.Time) {
		parent = tally{false, entry.Time.UnixMilli(), Parts}
	}
	t.join(parent.oldest, parent.percent)
}

// own are the dates of the files of a point, without what it needs.
func (f verifiedFile) own(m manifest.Manifest, digest string, entry Verification, known bool, limit int64) map[string]Dates {
	own := map[string]Dates{}
	record, recorded := f.Proven[m.ID]
	recorded = recorded && record.Manifest == digest
	dates := func(file string) {
		var d Dates
		switch {
		case recorded:
			d, _ = parseDates(record.Files[file]) // what does not parse is never
		case known && entry.Sound: // one of damage says nothing of the rest: it may never have been read
			d = allAt(entry.Time)
		}
		d.forgetAfter(limit)
		own[file] = d
	}
	for _, d := range m.Disks {
		dates(d.Image)
	}
	for _, e := range m.Extras {
		dates(e.File)
	}
	return own
}

// Look is what a verification has seen of a part of a file.
type Look int8

// The looks.
const (
	NotRead Look = iota
	Right        // it is as it was written
	Wrong        // it is not
)

// Checked is what a verification found of a point.
type Checked struct {
	Manifest string // digest of the manifest.json
	// Since is when the first of what Seen has was read, in UTC: what is Right was so then, and
	// says nothing of damage that was found later.
	Since time.Time
	// Damaged: the point does not restore whole. Lost are the disks (their targets) that do not.
	Damaged bool
	Lost    []string
	// Seen has for each image, and each of the extras, what was read of it.
	Seen map[string][Parts]Look
	// Structure has the disks whose qcow2 structure was checked.
	Structure map[string]Look
}

// structure are the disks whose structure is wrong: as this has found, or as was known before and
// is not refuted.
func (c Checked) structure(before Verification) (targets []string) {
	for target, look := range c.Structure {
		if look == Wrong {
			targets = append(targets, target)
		}
	}
	for _, target := range before.Structure {
		if c.Structure[target] == NotRead {
			targets = append(targets, target)
		}
	}
	slices.Sort(targets)
	return targets
}

// SetChecked adds to what is known of points, at this time, and returns what is known then,
// which is right even if it could not be recorded (err). A point in which damage was found
// counts as damaged until a later verification has proven every byte of it.
func (r *Repository) SetChecked(l *lineage.Lineage, now time.Time, points map[string]Checked) (p *Proofs, err error) {
	if len(points) == 0 {
		return r.Proofs(l), nil
	}
	p = &Proofs{}
	err = r.changeVerified(l.Domain, func(f *verifiedFile) {
		f.take(l, now, points, r.replacedSince(l, f.Points))
		p = f.proofs(l, now)
	})
	return p, err
}

// replacedSince are the points that have an entry of another manifest than l has, because they
// were replaced since l was read: their entries are the newer ones.
func (r *Repository) replacedSince(l *lineage.Lineage, entries map[string]Verification) map[string]bool {
	replaced := map[string]bool{}
	for id, v := range entries {
		if known, ok := l.Digest(id); ok && v.Manifest != known {
			digest, err := r.ManifestDigest(l.Domain, id)
			replaced[id] = err == nil && digest != known
		}
	}
	return replaced
}

func (f *verifiedFile) take(l *lineage.Lineage, now time.Time, points map[string]Checked, replaced map[string]bool) {
	before := f.proofs(l, now)
	doubts := map[string]Verification{}
	for id, c := range points {
		if replaced[id] {
			continue
		}
		old, known := f.Points[id]
		damaged := known && old.Manifest == c.Manifest && !old.Sound
		if damaged && old.Time.After(c.Since) && !old.Time.After(now.Add(clockSlack)) {
			c.Seen = wrongOf(c.Seen) // another run has found damage meanwhile
			maps.DeleteFunc(c.Structure, func(_ string, look Look) bool { return look == Right })
		}
		if !damaged {
			old.Structure = nil
		}
		structure := c.structure(old)
		switch record, recorded := f.Proven[id]; {
		case len(c.Seen) > 0:
			f.setDates(id, c, before.own[id])
		case c.Damaged && (!recorded || record.Manifest != c.Manifest) && len(before.own[id]) > 0:
			// Else what was proven before would be forgotten.
			f.Proven[id] = provenPoint{c.Manifest, texts(before.own[id])}
		}
		switch {
		case c.Damaged:
			f.Points[id] = Verification{Time: now, Manifest: c.Manifest, Lost: c.Lost, Structure: structure}
		case len(c.Seen) > 0 && damaged && len(structure) == 0:
			doubts[id] = old
			delete(f.Points, id)
		}
	}
	// What earlier versions read says "sound" only of points that are verified.
	after := f.proofs(l, now)
	for _, id := range l.AllIDs() {
		v, verified := after.verified[id]
		old, known := f.Points[id]
		doubt, doubted := doubts[id]
		switch {
		case replaced[id]:
		case verified && v.Sound:
			f.Points[id] = v
			f.forgetDates(id, after.own[id], v)
		case doubted:
			f.Points[id] = doubt
		case known && old.Sound:
			digest, _ := l.Digest(id)
			f.Proven[id] = provenPoint{digest, texts(after.own[id])}
			delete(f.Points, id)
		}
	}
}

// wrongOf are the files, of those that were seen, in which something is wrong, with nothing but that.
func wrongOf(seen map[string][Parts]Look) map[string][Parts]Look {
	wrong := map[string][Parts]Look{}
	for file, looks := range seen {
		any := false
		for i, look := range looks {
			if look == Right {
				looks[i] = NotRead
			}
			any = any || look == Wrong
		}
		if any {
			wrong[file] = looks
		}
	}
	return wrong
}

func (f *verifiedFile) setDates(id string, c Checked, own map[string]Dates) {
	files, read := map[string]Dates{}, max(c.Since.UnixMilli(), 0)
	for file, d := range own {
		for i, look := range c.Seen[file] {
			switch look {
			case Right:
				d[i] = read
			case Wrong:
				d[i] = -read
			}
		}
		files[file] = d
	}
	f.Proven[id] = provenPoint{c.Manifest, texts(files)}
}

// forgetDates drops what the verification says already.
func (f *verifiedFile) forgetDates(id string, own map[string]Dates, v Verification) {
	for _, d := range own {
		if d != allAt(v.Time) {
			return
		}
	}
	delete(f.Proven, id)
}

func texts(files map[string]Dates) map[string]string {
	t := map[string]string{}
	for name, d := range files {
		t[name] = d.String()
	}
	return t
}
