package manifest

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/virtbackup/virtbackup/internal/fail"
)

// Latest names the newest point: the one with the highest number, whatever the
// clock of the host was when it was made.
const Latest = "latest"

// ErrNoPoint says that a domain has no such point; compare with it by errors.Is.
var ErrNoPoint = fail.Sentinel(fail.NotFound,
	"virtbackup list shows the domains and points; is --repo right?",
	"no such restore point")

// NoPointError says that a domain has no such point; errors.Is finds ErrNoPoint in it.
type NoPointError struct{ message, hint string }

// Error returns the message.
func (e *NoPointError) Error() string { return e.message }

// Hint says what to do.
func (e *NoPointError) Hint() string { return e.hint }

// Unwrap makes it an ErrNoPoint.
func (e *NoPointError) Unwrap() error { return ErrNoPoint }

// AmbiguousError says that a name or a time means two things.
type AmbiguousError struct{ message, hint string }

// Error returns the message.
func (e *AmbiguousError) Error() string { return e.message }

// Kind is fail.Usage.
func (e *AmbiguousError) Kind() fail.Kind { return fail.Usage }

// Hint says how to name one of them.
func (e *AmbiguousError) Hint() string { return e.hint }

// Resolve finds the point that at names: an id, "latest", or a time, which means
// the newest point at or before it by the points' own times, of equals the one
// with the highest number. A time is written as in parseTime; a day means its end, as do
// a minute, a second and a fraction of one.
// points are those of one domain, oldest first.
//
// The error is a *NoPointError, or an *AmbiguousError for a time of the hour that a clock
// going back repeats, if it means two points.
func Resolve(domain string, points []Manifest, at string) (Manifest, error) {
	list := "virtbackup list " + ShellWord(domain)
	if len(points) == 0 {
		return Manifest{}, &NoPointError{fmt.Sprintf("there is no point of domain %s", domain), "virtbackup list shows the domains and points; is --repo right?"}
	}
	if at == Latest {
		return slices.MaxFunc(points, compareNumbers), nil
	}
	if i := slices.IndexFunc(points, func(m Manifest) bool { return m.ID == at }); i >= 0 {
		return points[i], nil
	}
	periods := parseTime(at)
	if _, _, err := ParsePointID(at); err == nil {
		return Manifest{}, &NoPointError{fmt.Sprintf("domain %s has no point %s", domain, at), list}
	}
	if len(periods) == 0 {
		return Manifest{}, &NoPointError{
			fmt.Sprintf("domain %s has no point %q, and that is no time either", domain, at),
			list + " shows the points; times look like 2006-01-02 15:04:05"}
	}
	found := newestAt(points, periods[0].end)
	for _, period := range periods[1:] {
		if other := newestAt(points, period.end); (other == nil) != (found == nil) || other != nil && other.ID != found.ID {
			return Manifest{}, ambiguousTime(at, periods)
		}
	}
	if found == nil {
		first := slices.MinFunc(points, func(a, b Manifest) int { return a.Time.Compare(b.Time) })
		return Manifest{}, &NoPointError{
			fmt.Sprintf("domain %s has no point at or before %s: the first is %s of %s", domain,
				TimeText(periods[0].end), first.ID, TimeText(first.Time)), list}
	}
	return *found, nil
}

// newestAt is the newest point at or before an instant, nil if there is none.
func newestAt(points []Manifest, instant time.Time) *Manifest {
	early := slices.DeleteFunc(slices.Clone(points), func(m Manifest) bool { return m.Time.After(instant) })
	if len(early) == 0 {
		return nil
	}
	newest := slices.MaxFunc(early, func(a, b Manifest) int { return cmp.Or(a.Time.Compare(b.Time), compareNumbers(a, b)) })
	return &newest
}

func ambiguousTime(at string, periods []period) error {
	return &AmbiguousError{
		fmt.Sprintf("%s comes twice, as the clock went back, and means two points", at),
		fmt.Sprintf("write %s or %s", periods[0].start.Format(withOffset), periods[1].start.Format(withOffset))}
}

// IsNamed tells whether at is the point's own id or its own time, to the digit that it is
// written to, and not a later time that the point is the newest before.
func (m Manifest) IsNamed(at string) bool {
	return m.ID == at || slices.ContainsFunc(parseTime(at), func(s period) bool {
		return !m.Time.Before(s.start) && !m.Time.After(s.end)
	})
}

// IsPointName tells whether a point can be named so: an id, a time, or [Latest].
func IsPointName(s string) bool {
	_, _, err := ParsePointID(s)
	return err == nil || s == Latest || len(parseTime(s)) > 0
}

// EndOf reads a time as [Resolve] does, and returns the last instant of the day, minute,
// second or fraction that it names; of an hour that a clock going back repeats, the later one.
func EndOf(s string) (time.Time, error) {
	periods := parseTime(s)
	if len(periods) == 0 {
		return time.Time{}, fmt.Errorf("%q is no time: times look like 2006-01-02 15:04:05", s)
	}
	return periods[len(periods)-1].end, nil
}
