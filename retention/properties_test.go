package retention

import (
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strconv"
	"testing"
	"time"
)

// newRand is seeded anew for each run; VIRTBACKUP_SEED repeats one.
func newRand(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("VIRTBACKUP_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("VIRTBACKUP_SEED: %v", err)
		}
	}
	t.Logf("VIRTBACKUP_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 10))
}

// randomPoints are up to 60 points from minutes to months apart, some of them from a clock
// that was wrong, in any order.
func randomPoints(rnd *rand.Rand) []Point {
	points := make([]Point, rnd.IntN(60))
	at := time.Date(2026, time.Month(1+rnd.IntN(12)), 1+rnd.IntN(28), rnd.IntN(24), rnd.IntN(60), 0, 0, time.UTC)
	step := []time.Duration{time.Minute, time.Hour, 24 * time.Hour, 30 * 24 * time.Hour}[rnd.IntN(4)]
	oneIn := func(n int) bool { return rnd.IntN(n) == 0 }
	damaged := 2 + rnd.IntN(9)
	for i := range points {
		at = at.Add(time.Duration(rnd.Int64N(int64(2 * step))))
		p := Point{ID: fmt.Sprintf("c%d", i+1), Number: i + 1, Time: at, Base: !oneIn(4), Damaged: oneIn(damaged), Verified: oneIn(5), Booted: oneIn(6), Protected: oneIn(12)}
		if oneIn(10) {
			p.Time = at.Add(time.Duration(rnd.Int64N(int64(40*step))) - 20*step)
		}
		points[i] = p
	}
	rnd.Shuffle(len(points), func(i, j int) { points[i], points[j] = points[j], points[i] })
	return points
}

// randomRules are never empty.
func randomRules(rnd *rand.Rand, zones []*time.Location) Rules {
	for {
		r := Rules{Zone: zones[rnd.IntN(len(zones))]}
		for _, name := range ruleNames {
			if rnd.IntN(3) == 0 {
				*numberOf(&r, name) = 1 + rnd.IntN(8)
			}
		}
		if rnd.IntN(3) == 0 {
			r.Within = Span{Months: rnd.IntN(3), Days: rnd.IntN(20), Hours: rnd.IntN(30)}
		}
		if !r.Empty() {
			return r
		}
	}
}

// more is r with one rule added or one number raised.
func more(rnd *rand.Rand, r Rules) Rules {
	i := rnd.IntN(len(ruleNames) + 1)
	if i < len(ruleNames) {
		*numberOf(&r, ruleNames[i]) += 1 + rnd.IntN(3)
		return r
	}
	for _, n := range []*int{&r.Within.Years, &r.Within.Months, &r.Within.Days, &r.Within.Hours} {
		*n += rnd.IntN(3)
	}
	return r
}

func TestProperties(t *testing.T) {
	rnd := newRand(t)
	zones := []*time.Location{time.UTC, zone(t, "Europe/Berlin"), zone(t, "America/St_Johns"), zone(t, "Pacific/Apia")}
	for range 3000 {
		points, r := randomPoints(rnd), randomRules(rnd, zones)
		decisions := Decide(points, r)
		check := func(what string, ok bool) {
			if !ok {
				t.Fatalf("%s\nrules %+v\npoints %+v\n%s", what, r, points, reasonsOf(decisions))
			}
		}
		check("a decision for each point, with reasons", eachHasOne(points, decisions))
		check("kept as the model keeps", slices.Equal(keeps(decisions), model(points, r)))
		check("what is always kept", alwaysKept(points, decisions))

		raised := Decide(points, more(rnd, r))
		check("more rules, more points", !slices.ContainsFunc(indices(points), func(i int) bool { return decisions[i].Keep && !raised[i].Keep }))

		rest := keptPoints(points, decisions)
		check("again over what was kept", len(kept(Decide(rest, r))) == len(rest))

		order := rnd.Perm(len(points))
		shuffled := make([]Point, len(points))
		for i, from := range order {
			shuffled[i] = points[from]
		}
		for i, d := range Decide(shuffled, r) {
			check("in another order", reflect.DeepEqual(d, decisions[order[i]]))
		}
	}
}

// Points of the same number, which no repository has, are decided about alike in any order.
func TestSameNumber(t *testing.T) {
	points := checks("2026-03-01 01:00", "2026-03-01 02:00", "2026-03-01 02:00")
	for i := range points {
		points[i].Number = 7
	}
	for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		if got := kept(Decide([]Point{points[order[0]], points[order[1]], points[order[2]]}, Rules{Last: 1})); !slices.Equal(got, []string{"c3"}) {
			t.Errorf("%v: kept %v", order, got)
		}
	}
}

func indices(points []Point) []int {
	all := make([]int, len(points))
	for i := range all {
		all[i] = i
	}
	return all
}

func eachHasOne(points []Point, decisions []Decision) bool {
	if len(points) != len(decisions) {
		return false
	}
	for i, d := range decisions {
		if d.ID != points[i].ID || len(d.Reasons) == 0 || slices.Contains(d.Reasons, "") {
			return false
		}
	}
	return true
}

func keeps(decisions []Decision) []bool {
	keep := make([]bool, len(decisions))
	for i, d := range decisions {
		keep[i] = d.Keep
	}
	return keep
}

func keptPoints(points []Point, decisions []Decision) []Point {
	var rest []Point
	for i, p := range points {
		if decisions[i].Keep {
			rest = append(rest, p)
		}
	}
	return rest
}

// newest is the place of the newest point that is what is asked for, -1 if there is none.
func newest(points []Point, is func(Point) bool) int {
	at := -1
	for i, p := range points {
		if is(p) && (at < 0 || p.Number > points[at].Number) {
			at = i
		}
	}
	return at
}

// always are the places of the points that stay whatever the rules.
func always(points []Point) []int {
	var places []int
	for _, is := range []func(Point) bool{
		func(Point) bool { return true },
		func(p Point) bool { return p.Base },
		func(p Point) bool { return !p.Damaged },
		func(p Point) bool { return p.Base && !p.Damaged },
		func(p Point) bool { return p.Verified && !p.Damaged },
		func(p Point) bool { return p.Booted && !p.Damaged },
	} {
		if at := newest(points, is); at >= 0 {
			places = append(places, at)
		}
	}
	for i, p := range points {
		if p.Protected {
			places = append(places, i)
		}
	}
	return places
}

func alwaysKept(points []Point, decisions []Decision) bool {
	return !slices.ContainsFunc(always(points), func(i int) bool { return !decisions[i].Keep })
}

// model decides by the definition, each point for itself: a point represents its bucket if
// no newer sound point is in it, and the bucket counts if fewer than n others have one. For a
// damaged point, all others count, damaged or not.
func model(points []Point, r Rules) []bool {
	keep := make([]bool, len(points))
	for _, i := range always(points) {
		keep[i] = true
	}
	last := newest(points, func(Point) bool { return true })
	for i, p := range points {
		for _, name := range ruleNames {
			newer := make(map[[4]int]bool)
			for _, q := range points {
				if q.Number > p.Number && (p.Damaged || !q.Damaged) {
					newer[bucket(name, q, r.Zone)] = true
				}
			}
			if !newer[bucket(name, p, r.Zone)] && len(newer) < *numberOf(&r, name) {
				keep[i] = true
			}
		}
		if !r.Within.IsZero() && !p.Time.Before(r.Within.Before(points[last].Time.In(r.Zone))) {
			keep[i] = true
		}
	}
	return keep
}

func bucket(rule string, p Point, zone *time.Location) [4]int {
	day := p.Time.In(zone)
	switch rule {
	case "last":
		return [4]int{p.Number}
	case "hourly":
		return [4]int{int(p.Time.Unix() / 3600)}
	case "daily":
		return [4]int{day.Year(), day.YearDay()}
	case "weekly": // a week is its Thursday
		thursday := day.AddDate(0, 0, 3-(int(day.Weekday())+6)%7)
		return [4]int{thursday.Year(), thursday.YearDay()}
	case "monthly":
		return [4]int{day.Year(), int(day.Month())}
	}
	return [4]int{day.Year()}
}

// Twice the points are about twice the work. What is counted is allocations: some for each
// point, and one for each name of a bucket.
func TestCostOfManyPoints(t *testing.T) {
	r := rules(t, "last 5000 hourly 5000 daily 5000 weekly 5000 monthly 5000 yearly 5000 within 99y")
	r.Zone = zone(t, "Europe/Berlin")
	cost := func(n int) float64 {
		points := make([]Point, n)
		start := time.Date(2010, 1, 1, 0, 0, 0, 0, time.UTC)
		for i := range points {
			points[i] = Point{ID: fmt.Sprintf("c%d", i+1), Number: i + 1, Time: start.Add(time.Duration(i) * 7 * time.Hour), Base: true}
		}
		return testing.AllocsPerRun(1, func() { Decide(points, r) })
	}
	few, many := cost(10_000), cost(20_000)
	t.Logf("%.0f allocations for 10,000 points, %.0f for 20,000", few, many)
	if few > 25*10_000 || many > 2.2*few {
		t.Errorf("%.0f allocations for 10,000 points, %.0f for 20,000", few, many)
	}
}
