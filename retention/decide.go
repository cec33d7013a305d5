package retention

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// The reasons for points that no rule keeps, and for keeping points where there are no rules.
const (
	reasonNone    = "no rule keeps it"
	reasonDamaged = "damaged, and no rule would keep it"
	reasonNoRules = "no rules"
)

// Decide decides about all points of a domain. They may come in any order, which the result
// has, too. With r empty or not valid all are kept.
//
// The newest point is that of the highest number, never that of the latest time. These are
// always kept: the newest point, the newest that can be a base, the newest verified one, the
// newest that booted, and all protected ones. Where the newest point or base is damaged, the newest undamaged one is
// kept as well: a short [Rules.Within] alone would remove all that is sound.
//
// The newest point of an hour, day, week, month or year represents it. The last N of these are
// the ones whose representatives have the highest numbers. If the host's clock was always
// right this is the order of the calendar. If it was not, this loses the least. In the order
// of the calendar, points from a clock that was ahead would be the last day, week, month and
// year for ever and take the places of others; points from a clock that was behind would be
// removed first, although they are new. In the order of numbers all points age alike: by the
// runs after them.
func Decide(points []Point, r Rules) []Decision {
	if r.Empty() || r.Validate() != nil {
		return keepAll(points)
	}
	all := newestFirst(points)
	sound := slices.DeleteFunc(slices.Clone(all), func(c *candidate) bool { return c.Damaged })
	keepAlways(all, sound)
	keepByRules(all, sound, r)

	decisions := make([]Decision, len(points))
	for _, c := range all {
		decisions[c.at] = c.decision()
	}
	return decisions
}

func keepAll(points []Point) []Decision {
	decisions := make([]Decision, len(points))
	for i, p := range points {
		decisions[i] = Decision{p.ID, true, []string{reasonNoRules}}
	}
	return decisions
}

// candidate is a point, its place in the caller's order, and what keeps it so far.
type candidate struct {
	Point
	at      int
	reasons []string
}

func (c *candidate) keep(reason string) { c.reasons = append(c.reasons, reason) }

func (c *candidate) decision() Decision {
	switch {
	case len(c.reasons) > 0:
		return Decision{c.ID, true, c.reasons}
	case c.Damaged:
		return Decision{c.ID, false, []string{reasonDamaged}}
	}
	return Decision{c.ID, false, []string{reasonNone}}
}

// newestFirst is the points in the order of their numbers, the highest first. A repository
// gives each number once; were it otherwise, the result would still not depend on the
// order of the points.
func newestFirst(points []Point) []*candidate {
	all := make([]*candidate, len(points))
	for i, p := range points {
		all[i] = &candidate{Point: p, at: i}
	}
	slices.SortFunc(all, func(a, b *candidate) int {
		return cmp.Or(cmp.Compare(b.Number, a.Number), b.Time.Compare(a.Time), cmp.Compare(b.ID, a.ID))
	})
	return all
}

// keepAlways keeps what stays whatever the rules. Damaged points are among it: the newest
// point is what the next run and an administrator look for, and its undamaged disks may be
// all that there is of the last night.
func keepAlways(all, sound []*candidate) {
	anyone := func(*candidate) bool { return true }
	base := func(c *candidate) bool { return c.Base }
	keepNewest("newest", all, anyone)
	keepNewest("newest base", all, base)
	if len(all) > 0 && all[0].Damaged {
		keepNewest("newest undamaged", sound, anyone)
	}
	if i := slices.IndexFunc(all, base); i >= 0 && all[i].Damaged {
		keepNewest("newest undamaged base", sound, base)
	}
	keepNewest("last verified", sound, func(c *candidate) bool { return c.Verified })
	keepNewest("last booted", sound, func(c *candidate) bool { return c.Booted })
	for _, c := range all {
		if c.Protected {
			c.keep("protected")
		}
	}
}

// keepNewest keeps the newest of the candidates that are what is asked for, if there is one.
func keepNewest(reason string, newestFirst []*candidate, is func(*candidate) bool) {
	if i := slices.IndexFunc(newestFirst, is); i >= 0 {
		newestFirst[i].keep(reason)
	}
}

// keepByRules applies the rules twice. To the sound points: a damaged one represents nothing
// and is counted nowhere, else it would take the place of a good one. And to all: a damaged
// point that a rule would keep stays beside them. What calls it damaged is a note, which may be
// wrong, and removing the point would destroy what is left of it.
func keepByRules(all, sound []*candidate, r Rules) {
	if len(all) == 0 {
		return
	}
	newest := newestTime(all, r.Now).In(r.zone())
	applyRules(sound, newest, r, (*candidate).keep)
	applyRules(all, newest, r, func(c *candidate, reason string) {
		if c.Damaged {
			c.keep(reason + ", though damaged")
		}
	})
}

// newestTime is that of the newest point that does not lie in the future.
func newestTime(all []*candidate, now time.Time) time.Time {
	if now.IsZero() {
		return all[0].Time
	}
	for _, c := range all {
		if !c.Time.After(now) {
			return c.Time
		}
	}
	return now
}

func applyRules(points []*candidate, newest time.Time, r Rules, keep func(c *candidate, reason string)) {
	for _, c := range points[:min(r.Last, len(points))] {
		keep(c, "last")
	}
	buckets := func(n int, zone *time.Location, name func(time.Time) string) {
		keepBuckets(points, n, zone, name, keep)
	}
	buckets(r.Hourly, time.UTC, func(t time.Time) string { return t.Format("hourly 2006-01-02 15h UTC") })
	buckets(r.Daily, r.zone(), func(t time.Time) string { return t.Format("daily 2006-01-02") })
	buckets(r.Weekly, r.zone(), func(t time.Time) string {
		year, week := t.ISOWeek()
		return fmt.Sprintf("weekly %04d-W%02d", year, week)
	})
	buckets(r.Monthly, r.zone(), func(t time.Time) string { return t.Format("monthly 2006-01") })
	buckets(r.Yearly, r.zone(), func(t time.Time) string { return t.Format("yearly 2006") })
	if !r.Within.IsZero() {
		keepWithin(points, r.Within, newest, keep)
	}
}

// keepBuckets keeps the representatives of the last n buckets. A bucket is what has the same
// name, which is also the reason.
func keepBuckets(points []*candidate, n int, zone *time.Location, name func(time.Time) string, keep func(c *candidate, reason string)) {
	seen := make(map[string]bool)
	for _, c := range points {
		if len(seen) == n {
			return
		}
		bucket := name(c.Time.In(zone))
		if !seen[bucket] {
			seen[bucket] = true
			keep(c, bucket)
		}
	}
}

// keepWithin keeps the points since a span before the newest one, also those with a later time
// than the newest, which a clock that was ahead has given them.
func keepWithin(points []*candidate, span Span, newest time.Time, keep func(c *candidate, reason string)) {
	start, reason := span.Before(newest), "within "+span.String()
	for _, c := range points {
		if !c.Time.Before(start) {
			keep(c, reason)
		}
	}
}
