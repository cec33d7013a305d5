package retention

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestGolden has the golden cases of the design, in its words. A case with two zones or two
// rules is two lines here. Times are UTC; days begin in Berlin where nothing else is said.
func TestGolden(t *testing.T) {
	nights40 := nights(40, "2026-01-01 01:00")
	evening := checks("2026-03-01 01:00", "2026-03-01 23:30", "2026-03-02 12:00")
	dst := checks("2026-10-24 00:30", "2026-10-25 00:30", "2026-10-25 01:30")
	for _, c := range []struct {
		name   string
		points []Point
		rules  string
		zone   string
		kept   string
	}{
		{"40 nights from 2026-01-01", nights40, "daily 7", "", "c34–c40"},
		{"same", nights40, "daily 7 weekly 4 monthly 3", "", "c25 c31 c32 c34–c40"},
		{"two a day, 3 days", checks("2026-03-01 01:00", "2026-03-01 13:00", "2026-03-02 01:00", "2026-03-02 13:00", "2026-03-03 01:00", "2026-03-03 13:00"), "daily 2", "", "c4 c6"},
		{"1, 2, 3, 10, 20 March", checks("2026-03-01 01:00", "2026-03-02 01:00", "2026-03-03 01:00", "2026-03-10 01:00", "2026-03-20 01:00"), "daily 3", "", "c3 c4 c5"},
		{"2024-01-01, -05, -11", checks("2024-01-01 01:00", "2024-01-05 01:00", "2024-01-11 01:00"), "within 7d", "", "c2 c3"},
		{"2026-10-24 00:30Z, 10-25 00:30Z, 01:30Z (end of DST)", dst, "hourly 2", "", "c2 c3"},
		{"2026-10-24 00:30Z, 10-25 00:30Z, 01:30Z (end of DST)", dst, "daily 2", "", "c1 c3"},
		{"1 March 01:00Z, 23:30Z, 2 March 12:00Z", evening, "daily 2", "Europe/Berlin", "c1 c3"},
		{"1 March 01:00Z, 23:30Z, 2 March 12:00Z", evening, "daily 2", "UTC", "c2 c3"},
		{"2026-12-31, 2027-01-03, 01-04", checks("2026-12-31 01:00", "2027-01-03 01:00", "2027-01-04 01:00"), "weekly 2", "", "c2 c3"},
		{"1 March, 2 March, 2 March 13:00Z known damaged", with(checks("2026-03-01 01:00", "2026-03-02 01:00", "2026-03-02 13:00"), "c3", damaged), "daily 1", "", "c2 c3"},
		{"c1 full, c2, diff3", with(nights(3, "2026-03-01 01:00"), "c3", diff), "last 1", "", "c2 diff3"},
		{"5 nights, c1 protected, c2 verified", with(with(nights(5, "2026-03-01 01:00"), "c1", protected), "c2", verified), "last 2", "", "c1 c2 c4 c5"},
	} {
		t.Run(c.name+"; "+c.rules+" "+c.zone, func(t *testing.T) {
			r := rules(t, c.rules)
			r.Zone = zone(t, "Europe/Berlin")
			if c.zone != "" {
				r.Zone = zone(t, c.zone)
			}
			if got, want := kept(Decide(c.points, r)), ids(c.kept); !slices.Equal(got, want) {
				t.Errorf("kept %v, want %v", got, want)
			}
		})
	}
}

// The golden case of no rule is for the command line: exit 2. This package keeps all.
func TestNoRules(t *testing.T) {
	points := with(nights(3, "2026-03-01 01:00"), "c2", damaged)
	for name, r := range map[string]Rules{
		"none":        {},
		"only a zone": {Zone: time.UTC},
	} {
		if !r.Empty() {
			t.Errorf("%s: not empty", name)
		}
	}
	for name, r := range map[string]Rules{
		"none":                {},
		"a negative number":   {Daily: 1, Last: -1},
		"a negative span":     {Daily: 1, Within: Span{Days: -1}},
		"too long a span":     {Daily: 1, Within: Span{Hours: 1 << 40}},
		"nothing but a minus": {Yearly: -1},
	} {
		for _, d := range Decide(points, r) {
			if !d.Keep || !slices.Equal(d.Reasons, []string{"no rules"}) {
				t.Errorf("%s: %+v", name, d)
			}
		}
	}
}

// checks are checkpoints at these times (UTC), named c1, c2 and so on.
func checks(times ...string) []Point {
	points := make([]Point, len(times))
	for i, text := range times {
		at, err := time.Parse("2006-01-02 15:04", text)
		if err != nil {
			panic(err)
		}
		points[i] = Point{ID: fmt.Sprintf("c%d", i+1), Number: i + 1, Time: at, Base: true}
	}
	return points
}

// nights are n points, one every 24 hours.
func nights(n int, first string) []Point {
	start := checks(first)[0]
	points := make([]Point, n)
	for i := range points {
		points[i] = Point{ID: fmt.Sprintf("c%d", i+1), Number: i + 1, Time: start.Time.Add(time.Duration(i) * 24 * time.Hour), Base: true}
	}
	return points
}

func damaged(p *Point)   { p.Damaged = true }
func protected(p *Point) { p.Protected = true }
func verified(p *Point)  { p.Verified = true }
func booted(p *Point)    { p.Booted = true }
func diff(p *Point)      { p.ID, p.Base = fmt.Sprintf("diff%d", p.Number), false }

// with changes a copy of the points: those of these ids, which are apart by spaces.
func with(points []Point, ids string, change func(*Point)) []Point {
	points = slices.Clone(points)
	for id := range strings.FieldsSeq(ids) {
		change(&points[slices.IndexFunc(points, func(p Point) bool { return p.ID == id })])
	}
	return points
}

// rules reads "daily 7 within 14d".
func rules(t *testing.T, text string) Rules {
	t.Helper()
	var r Rules
	words := strings.Fields(text)
	for i := 0; i+1 < len(words); i += 2 {
		if words[i] == "within" {
			span, err := ParseSpan(words[i+1])
			if err != nil {
				t.Fatal(err)
			}
			r.Within = span
			continue
		}
		n, err := strconv.Atoi(words[i+1])
		if err != nil {
			t.Fatal(err)
		}
		*numberOf(&r, words[i]) = n
	}
	return r
}

var ruleNames = []string{"last", "hourly", "daily", "weekly", "monthly", "yearly"}

func numberOf(r *Rules, name string) *int {
	return []*int{&r.Last, &r.Hourly, &r.Daily, &r.Weekly, &r.Monthly, &r.Yearly}[slices.Index(ruleNames, name)]
}

func kept(decisions []Decision) []string {
	var ids []string
	for _, d := range decisions {
		if d.Keep {
			ids = append(ids, d.ID)
		}
	}
	return ids
}

var idRange = regexp.MustCompile(`^c(\d+)–c(\d+)$`)

// ids reads "c25 c31 c34–c40".
func ids(text string) []string {
	var ids []string
	for word := range strings.FieldsSeq(text) {
		m := idRange.FindStringSubmatch(word)
		if m == nil {
			ids = append(ids, word)
			continue
		}
		from, _ := strconv.Atoi(m[1])
		to, _ := strconv.Atoi(m[2])
		for i := from; i <= to; i++ {
			ids = append(ids, fmt.Sprintf("c%d", i))
		}
	}
	return ids
}
