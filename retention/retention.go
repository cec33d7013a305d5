// Package retention decides which points a policy keeps, and says why. It is pure: no files
// and no clock; all that a decision depends on is in its arguments.
package retention

import (
	"time"

	"github.com/virtbackup/virtbackup/internal/fail"
)

// Rules say which points stay. They are a union, each independent of the others: a point
// stays if one of them keeps it. The numbers count points (Last), or hours, days, ISO weeks,
// months and years that have a point; those without one do not count. 0 is no rule.
type Rules struct {
	Last, Hourly, Daily, Weekly, Monthly, Yearly int

	// Within keeps the points of a span before the newest point, its start included. The
	// zero value is no rule.
	Within Span

	// Now is the time. Within is not relative to a point that lies after it, from a clock that
	// was ahead: that would leave all others out. Zero: no point does. It is no rule.
	Now time.Time

	// Zone is that of days, weeks, months and years, nil is time.Local. Hours are those of
	// UTC, so that the hour that a clock going back repeats is two.
	Zone *time.Location
}

// Empty reports whether no rule is given.
func (r Rules) Empty() bool {
	for _, rule := range r.numbers() {
		if rule.n > 0 {
			return false
		}
	}
	return r.Within.IsZero()
}

// Validate returns a fail.Usage with a hint for negative numbers, and for a span that
// [ParseSpan] would refuse.
func (r Rules) Validate() error {
	for _, rule := range r.numbers() {
		if rule.n < 0 {
			return fail.Errorf(fail.Usage, "give a number of at least 1, or leave the rule out", "the rule %q cannot keep %d", rule.name, rule.n)
		}
	}
	return r.Within.validate()
}

type number struct {
	name string
	n    int
}

func (r Rules) numbers() []number {
	return []number{
		{"last", r.Last}, {"hourly", r.Hourly}, {"daily", r.Daily},
		{"weekly", r.Weekly}, {"monthly", r.Monthly}, {"yearly", r.Yearly},
	}
}

// zone is the zone of calendar days.
func (r Rules) zone() *time.Location {
	if r.Zone == nil {
		return time.Local
	}
	return r.Zone
}

// Point is what a decision about a point depends on.
type Point struct {
	ID        string // as it is shown; part of no decision
	Number    int    // the N of checkN; a higher one is newer, whatever the clock said
	Time      time.Time
	Base      bool // a full or inc: others can be chained onto it
	Damaged   bool // it, or what it needs of others, is known to be damaged; nothing known is sound
	Verified  bool // every byte was proven; of a damaged point it counts for nothing
	Booted    bool // the last drill booted it
	Protected bool // by an administrator
}

// Decision is what becomes of a point.
type Decision struct {
	ID   string
	Keep bool

	// Reasons are all that keep the point, or why nothing does; there is at least one.
	Reasons []string
}
