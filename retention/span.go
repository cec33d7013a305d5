package retention

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/virtbackup/virtbackup/internal/fail"
)

// maxCount is the largest number of a span. It keeps [Span.Before] far from what a
// time.Duration holds, 292 years: a difference that wraps around would lie in the future,
// and a rule would keep nothing.
const maxCount = 99999

const spanHint = "a span is made of years, months, weeks, days and hours in this order, such as 14d, 36h, 2w, 6m or 1y6m14d"

// Span is a span of the calendar: a month is what lies between a day of a month and the
// same day of the next one, a day may have 23 or 25 hours. No number is negative. The zero
// value is no span.
type Span struct{ Years, Months, Days, Hours int }

var spanForm = regexp.MustCompile(`^(?:([0-9]+)y)?(?:([0-9]+)m)?(?:([0-9]+)w)?(?:([0-9]+)d)?(?:([0-9]+)h)?$`)

// ParseSpan reads a span: 14d, 36h, 2w, 6m, 1y, 1y6m14d. A week is seven days. Anything
// else, a span of nothing and one of more than 99999 of a unit is a fail.Usage with a hint.
func ParseSpan(s string) (Span, error) {
	m := spanForm.FindStringSubmatch(s)
	if m == nil {
		return Span{}, fail.Errorf(fail.Usage, spanHint, "%q is not a span of time", s)
	}
	years, months, weeks, days, hours := count(m[1]), count(m[2]), count(m[3]), count(m[4]), count(m[5])
	span := Span{years, months, 7*weeks + days, hours}
	if span.IsZero() {
		return Span{}, fail.Errorf(fail.Usage, spanHint, "%q is not a span of time: it has no length", s)
	}
	if err := span.validate(); err != nil {
		return Span{}, err
	}
	return span, nil
}

// count is the value of digits, or a number above maxCount for more than that. No digits
// are 0.
func count(digits string) int {
	if digits == "" {
		return 0
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n > maxCount {
		return maxCount + 1
	}
	return n
}

func (s Span) validate() error {
	for _, n := range []int{s.Years, s.Months, s.Days, s.Hours} {
		if n < 0 {
			return fail.Errorf(fail.Usage, spanHint, "a span of time has no negative number: %s", s)
		}
		if n > maxCount {
			return fail.Errorf(fail.Usage, spanHint, "a span of time has at most %d of a unit", maxCount)
		}
	}
	return nil
}

// IsZero reports whether s is no span.
func (s Span) IsZero() bool { return s == Span{} }

// String is s in the form that [ParseSpan] reads. It is "0d" for no span.
func (s Span) String() string {
	var b strings.Builder
	for _, part := range []struct {
		n    int
		unit string
	}{{s.Years, "y"}, {s.Months, "m"}, {s.Days, "d"}, {s.Hours, "h"}} {
		if part.n != 0 {
			fmt.Fprintf(&b, "%d%s", part.n, part.unit)
		}
	}
	if b.Len() == 0 {
		return "0d"
	}
	return b.String()
}

// Before returns the time that lies s before t by the calendar of t's zone: years and
// months first, then days, then hours. Years and months lead to the same day of the month,
// or to the last day of a shorter one: a month before 31 March is the end of February. (The
// 3 March of [time.Time.AddDate] would make a rule keep less.) Years, months and days leave
// the time on the clock as it is; where the clock skips or repeats that time the result is
// one of the two that [time.Date] may return.
func (s Span) Before(t time.Time) time.Time {
	year, month, day := t.Date()
	first := time.Date(year-s.Years, month-time.Month(s.Months), 1, 0, 0, 0, 0, time.UTC)
	last := first.AddDate(0, 1, -1).Day()
	hour, minute, second := t.Clock()
	date := time.Date(first.Year(), first.Month(), min(day, last)-s.Days, hour, minute, second, t.Nanosecond(), t.Location())
	return date.Add(-time.Duration(s.Hours) * time.Hour)
}
