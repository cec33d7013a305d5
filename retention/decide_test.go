package retention

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/internal/fail"
)

// reasonsOf is the decisions, a line for each point.
func reasonsOf(decisions []Decision) string {
	var b strings.Builder
	for _, d := range decisions {
		word := "remove"
		if d.Keep {
			word = "keep"
		}
		fmt.Fprintf(&b, "%s %s: %s\n", d.ID, word, strings.Join(d.Reasons, ", "))
	}
	return b.String()
}

func compareReasons(t *testing.T, points []Point, r Rules, want string) {
	t.Helper()
	if got := reasonsOf(Decide(points, r)); got != strings.TrimLeft(want, "\n") {
		t.Errorf("got:\n%swant:%s", got, want)
	}
}

func TestReasons(t *testing.T) {
	points := checks("2025-12-30 01:00", "2025-12-31 22:59", "2025-12-31 23:30", "2026-01-10 10:10", "2026-01-11 02:20", "2026-01-11 02:50")
	points = with(with(with(points, "c1", protected), "c2", verified), "c5", damaged)
	r := rules(t, "last 1 hourly 1 daily 2 weekly 3 monthly 2 yearly 2 within 36h")
	r.Zone = zone(t, "Europe/Berlin")
	compareReasons(t, points, r, `
c1 keep: protected
c2 keep: last verified, monthly 2025-12, yearly 2025
c3 keep: weekly 2026-W01
c4 keep: daily 2026-01-10, within 36h
c5 keep: within 36h, though damaged
c6 keep: newest, newest base, last, hourly 2026-01-11 02h UTC, daily 2026-01-11, weekly 2026-W02, monthly 2026-01, yearly 2026, within 36h
`)
	compareReasons(t, points[2:4], Rules{Last: 1, Zone: time.UTC}, `
c3 remove: no rule keeps it
c4 keep: newest, newest base, last
`)
}

// Weeks are those of ISO 8601, and their year is not that of the calendar.
func TestWeeksAtNewYear(t *testing.T) {
	r := rules(t, "weekly 9")
	r.Zone = zone(t, "Europe/Berlin")
	compareReasons(t, checks("2020-12-27 23:30", "2021-01-03 22:59", "2021-01-03 23:00", "2024-12-30 12:00"), r, `
c1 remove: no rule keeps it
c2 keep: weekly 2020-W53
c3 keep: weekly 2021-W01
c4 keep: newest, newest base, weekly 2025-W01
`)
}

// Days have 23 and 25 hours where the clock changes, and zones that are not whole hours from
// UTC have whole hours of UTC, too.
func TestDaysWhenTheClockChanges(t *testing.T) {
	for zoneName, c := range map[string]struct {
		points      []Point
		rules, kept string
	}{
		"Europe/Berlin":      {checks("2026-03-28 22:59", "2026-03-28 23:00", "2026-03-29 21:59", "2026-03-29 22:00"), "daily 9", "c1 c3 c4"},
		"America/New_York":   {checks("2026-11-01 03:59", "2026-11-01 04:00", "2026-11-02 04:59", "2026-11-02 05:00"), "daily 9", "c1 c3 c4"},
		"UTC":                {checks("2026-03-01 01:10", "2026-03-01 02:10", "2026-03-01 13:10", "2026-03-01 14:10"), "hourly 9", "c1–c4"},
		"Asia/Kolkata":       {checks("2026-03-01 18:29", "2026-03-01 18:30", "2026-03-01 19:10"), "hourly 9", "c2 c3"},
		"Pacific/Kiritimati": {checks("2026-12-31 09:59", "2026-12-31 10:00"), "yearly 9", "c1 c2"},
	} {
		r := rules(t, c.rules)
		r.Zone = zone(t, zoneName)
		if got := kept(Decide(c.points, r)); !slices.Equal(got, ids(c.kept)) {
			t.Errorf("%s: kept %v, want %s", zoneName, got, c.kept)
		}
	}
}

// Without a zone days are local ones.
func TestLocalZone(t *testing.T) {
	defer func(z *time.Location) { time.Local = z }(time.Local)
	points := checks("2026-03-01 01:00", "2026-03-01 23:30", "2026-03-02 12:00")
	for name, want := range map[string]string{"Europe/Berlin": "c1 c3", "UTC": "c2 c3"} {
		time.Local = zone(t, name)
		if got := kept(Decide(points, Rules{Daily: 2})); !slices.Equal(got, ids(want)) {
			t.Errorf("%s: kept %v, want %s", name, got, want)
		}
	}
}

func TestWithin(t *testing.T) {
	nightly := nights(40, "2026-03-05 01:00")
	for _, c := range []struct {
		span, zone, kept string
	}{
		{"7d", "UTC", "c33–c40"}, // the start is included
		{"167h", "UTC", "c34–c40"},
		{"1m", "UTC", "c9–c40"},             // 13 March
		{"18d", "Europe/Berlin", "c23–c40"}, // 26 March 03:00 there is 02:00 UTC, after c22
	} {
		r := rules(t, "within "+c.span)
		r.Zone = zone(t, c.zone)
		if got := kept(Decide(nightly, r)); !slices.Equal(got, ids(c.kept)) {
			t.Errorf("within %s in %s: kept %v, want %s", c.span, c.zone, got, c.kept)
		}
	}
}

// Damaged points take no place of a good one, whatever the rule, and stay where a rule would
// keep them if they were sound.
func TestDamaged(t *testing.T) {
	points := with(nights(6, "2026-03-01 01:00"), "c2 c4", damaged)
	for rule, want := range map[string]string{
		"last 3": "c3 c4 c5 c6", "hourly 3": "c3 c4 c5 c6", "daily 3": "c3 c4 c5 c6", "within 4d": "c2 c3 c4 c5 c6", "monthly 9": "c6", "last 9": "c1 c2 c3 c4 c5 c6", "last 2": "c5 c6",
	} {
		if got := kept(Decide(points, rules(t, rule))); !slices.Equal(got, ids(want)) {
			t.Errorf("%s: kept %v, want %s", rule, got, want)
		}
	}
}

// Where the newest points are damaged, something whole stays beside them.
func TestNewestDamaged(t *testing.T) {
	points := with(with(checks("2026-01-01 01:00", "2026-01-02 01:00", "2026-01-03 01:00", "2026-03-01 01:00", "2026-03-01 02:00"), "c3 c5", diff), "c4 diff5", damaged)
	compareReasons(t, points, rules(t, "within 1d"), `
c1 remove: no rule keeps it
c2 keep: newest undamaged base
diff3 keep: newest undamaged
c4 keep: newest base, within 1d, though damaged
diff5 keep: newest, within 1d, though damaged
`)
	compareReasons(t, with(points, "c1 c2 diff3", damaged), rules(t, "daily 9"), `
c1 keep: daily 2026-01-01, though damaged
c2 keep: daily 2026-01-02, though damaged
diff3 keep: daily 2026-01-03, though damaged
c4 keep: newest base
diff5 keep: newest, daily 2026-03-01, though damaged
`)
}

// What was verified and found damaged since is not the last verified; protected it stays.
func TestVerifiedThenDamaged(t *testing.T) {
	points := with(with(with(nights(5, "2026-03-01 01:00"), "c1 c2 c3", verified), "c3 c4", damaged), "c4", protected)
	compareReasons(t, points, rules(t, "last 1"), `
c1 remove: no rule keeps it
c2 keep: last verified
c3 remove: damaged, and no rule would keep it
c4 keep: protected
c5 keep: newest, newest base, last
`)
}

// The newest point that booted stays, beside the newest that was verified; a damaged one does not count.
func TestBooted(t *testing.T) {
	points := with(with(with(nights(5, "2026-03-01 01:00"), "c1 c2 c4", booted), "c4", damaged), "c3", verified)
	compareReasons(t, points, rules(t, "last 1"), `
c1 remove: no rule keeps it
c2 keep: last booted
c3 keep: last verified
c4 remove: damaged, and no rule would keep it
c5 keep: newest, newest base, last
`)
}

// A clock that was wrong for some runs: points age by the runs that came after them.
func TestWrongClock(t *testing.T) {
	for name, c := range map[string]struct {
		points      []Point
		rules, kept string
	}{
		// Two runs in 2099. They count as nights, and go as others do.
		"ahead, at once":            {checks("2026-03-01 01:00", "2026-03-02 01:00", "2099-01-01 01:00", "2099-01-02 01:00", "2026-03-05 01:00"), "daily 3", "c3 c4 c5"},
		"ahead, three nights on":    {checks("2026-03-01 01:00", "2099-01-01 01:00", "2099-01-02 01:00", "2026-03-04 01:00", "2026-03-05 01:00", "2026-03-06 01:00"), "daily 3", "c4 c5 c6"},
		"ahead, years":              {checks("2024-03-01 01:00", "2099-01-01 01:00", "2025-03-04 01:00", "2026-03-05 01:00"), "yearly 2", "c3 c4"},
		"ahead, within":             {checks("2026-02-01 01:00", "2099-01-01 01:00", "2026-03-01 01:00"), "within 7d", "c2 c3"},
		"behind":                    {checks("2026-03-01 01:00", "2026-03-02 01:00", "1970-01-01 01:00", "1970-01-02 01:00", "2026-03-05 01:00"), "daily 3", "c3 c4 c5"},
		"behind, and the newest":    {checks("2026-03-01 01:00", "2026-03-02 01:00", "1970-01-01 01:00"), "daily 2", "c2 c3"},
		"behind, within":            {checks("2026-03-01 01:00", "2026-03-02 01:00", "1970-01-01 01:00"), "within 1d", "c1 c2 c3"},
		"a day again: one bucket":   {checks("2026-03-01 01:00", "2026-03-02 01:00", "2026-03-03 01:00", "2026-03-02 02:00"), "daily 2", "c3 c4"},
		"a day again, and one more": {checks("2026-03-01 01:00", "2026-03-02 01:00", "2026-03-03 01:00", "2026-03-02 02:00"), "daily 3", "c1 c3 c4"},
	} {
		if got := kept(Decide(c.points, rules(t, c.rules))); !slices.Equal(got, ids(c.kept)) {
			t.Errorf("%s: kept %v, want %s", name, got, c.kept)
		}
	}
}

func TestNoPoints(t *testing.T) {
	if got := Decide(nil, rules(t, "last 1 daily 1 within 1d")); len(got) != 0 {
		t.Errorf("%v", got)
	}
}

func TestValidate(t *testing.T) {
	for _, name := range ruleNames {
		var r Rules
		*numberOf(&r, name) = 1
		if r.Empty() || r.Validate() != nil {
			t.Errorf("%s 1: empty %v, %v", name, r.Empty(), r.Validate())
		}
		*numberOf(&r, name) = -1
		if err := r.Validate(); fail.KindOf(err) != fail.Usage || fail.HintOf(err) == "" || !strings.Contains(err.Error(), name) {
			t.Errorf("%s -1: %v", name, err)
		}
	}
	if r := (Rules{Within: Span{Hours: 1}}); r.Empty() || r.Validate() != nil {
		t.Errorf("within 1h: empty %v, %v", r.Empty(), r.Validate())
	}
	for _, span := range []Span{{Years: -1}, {Months: -1}, {Days: -1}, {Hours: -1}, {Years: 1, Days: -1}, {Days: maxCount + 1}} {
		if err := (Rules{Within: span}).Validate(); fail.KindOf(err) != fail.Usage || fail.HintOf(err) == "" {
			t.Errorf("within %v: %v", span, err)
		}
	}
	if err := (Rules{}).Validate(); err != nil {
		t.Errorf("no rules: %v", err)
	}
}
