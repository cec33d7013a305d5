package manifest

import (
	"strings"
	"time"
)

// withOffset is the layout of a time that is ambiguous in local time.
const withOffset = time.DateTime + " -0700"

// TimeText is a time for people, in local time, to the second. In the hour that a clock
// going back repeats it has its offset. [Resolve] accepts it.
func TimeText(t time.Time) string {
	t = t.Local()
	if _, ok := twin(t); ok {
		return t.Format(withOffset)
	}
	return t.Format(time.DateTime)
}

// EndText is the end of a period for people: a day, where t is the last instant of it, else
// as [TimeText]. [EndOf] reads it.
func EndText(t time.Time) string {
	day := t.Local().Format(time.DateOnly)
	if end, err := EndOf(day); err == nil && end.Equal(t) {
		return day
	}
	return TimeText(t)
}

// TimeTextFine is that with milliseconds, and always with the offset.
func TimeTextFine(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05.000 -0700") }

// twin is the other instant that the clock on the wall calls the same as t, if there is
// one: a change of the offset within a day repeats some hour.
func twin(t time.Time) (time.Time, bool) {
	_, offset := t.Zone()
	for _, near := range []time.Duration{-24 * time.Hour, 24 * time.Hour} {
		_, other := t.Add(near).Zone()
		u := t.Add(time.Duration(offset-other) * time.Second)
		if other != offset && u.Format(time.DateTime) == t.Format(time.DateTime) {
			return u, true
		}
	}
	return t, false
}

// period is what a written time means: the day, minute, second or fraction of a second
// that it names, both ends included.
type period struct{ start, end time.Time }

// parseTime reads a time: a day, or a day and a time of day to the minute, the second or
// a fraction of one, with "T" or a space between, and with an offset from UTC or "Z"
// behind, or none for local time: what this program prints, and RFC 3339. Local time may
// mean two instants, the earlier of which comes first; what is no time means none. A time
// that the clock left out is that of the change, and a period without an instant in it.
func parseTime(s string) []period {
	if day, err := time.Parse(time.DateOnly, s); err == nil {
		return []period{{midnight(day), midnight(day.AddDate(0, 0, 1)).Add(-1)}}
	}
	for _, between := range []string{"T", " "} {
		for clock, unit := range map[string]time.Duration{"15:04": time.Minute, "15:04:05": unitOfSeconds(s)} {
			layout := time.DateOnly + between + clock
			if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
				wall, _ := time.Parse(layout, s)
				if change, ok := skipped(t, wall); ok {
					return []period{{change, change.Add(-1)}}
				}
				return localPeriods(t, unit)
			}
			for _, zone := range []string{"Z07:00", " Z07:00", "Z0700", " Z0700"} {
				if t, err := time.Parse(layout+zone, s); err == nil {
					return []period{{t, t.Add(unit - 1)}}
				}
			}
		}
	}
	return nil
}

// midnight is when a day, given in UTC, begins in local time.
func midnight(day time.Time) time.Time {
	t := time.Date(day.Year(), day.Month(), day.Day(), 0, 0, 0, 0, time.Local)
	if change, ok := skipped(t, day); ok {
		return change
	}
	return localPeriods(t, 1)[0].start
}

// skipped tells whether the clock, going forward, left out a local time; wall is what it
// would have shown, in UTC, and t what package time made of that, which is one of the two
// times that it could be. It happened at the instant of the change then.
func skipped(t, wall time.Time) (change time.Time, ok bool) {
	_, offset := t.Zone()
	shown := t.Add(time.Duration(offset) * time.Second)
	before, after := t.ZoneBounds()
	switch {
	case shown.After(wall):
		return before, true
	case shown.Before(wall):
		return after, true
	}
	return t, false
}

// localPeriods are those of a time that was written without an offset.
func localPeriods(t time.Time, unit time.Duration) []period {
	periods := []period{{t, t.Add(unit - 1)}}
	other, ok := twin(t)
	switch {
	case ok && other.Before(t):
		return append([]period{{other, other.Add(unit - 1)}}, periods...)
	case ok:
		return append(periods, period{other, other.Add(unit - 1)})
	}
	return periods
}

// unitOfSeconds is a second, or what the last digit of a fraction counts.
func unitOfSeconds(s string) time.Duration {
	unit := time.Second
	_, fraction, _ := strings.Cut(strings.Replace(s, ",", ".", 1), ".")
	for _, c := range fraction {
		if c < '0' || c > '9' || unit == 1 {
			break
		}
		unit /= 10
	}
	return unit
}
