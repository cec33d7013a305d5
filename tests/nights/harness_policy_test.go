package nights

import (
	"fmt"
	"slices"
	"strconv"
	"time"
)

// policy is a set of rules, and the words that prune takes for it. What it keeps is decided
// here once more, from the rules in words alone.
type policy struct {
	name                               string
	last, hourly, daily, weekly, month int
	withinDays                         int
}

// policies are those that docs/retention.md has for common needs. The short ones remove most
// of the points of 25 nights.
func policies(short bool) []policy {
	if short {
		return []policy{
			{name: "days", daily: 6},
			{name: "generations", daily: 4, weekly: 2, month: 2},
			{name: "hours", last: 3, hourly: 5, withinDays: 2},
		}
	}
	return []policy{
		{name: "days", daily: 30},
		{name: "generations", daily: 7, weekly: 4, month: 12},
		{name: "hours", last: 5, hourly: 12, withinDays: 3},
	}
}

// zone is that of the days; it has a summer time.
const zone = "Europe/Berlin"

func (p policy) args() (args []string) {
	for _, o := range []struct {
		name string
		n    int
	}{{"last", p.last}, {"hourly", p.hourly}, {"daily", p.daily}, {"weekly", p.weekly}, {"monthly", p.month}} {
		if o.n > 0 {
			args = append(args, "--keep-"+o.name, strconv.Itoa(o.n))
		}
	}
	if p.withinDays > 0 {
		args = append(args, "--keep-within", fmt.Sprintf("%dd", p.withinDays))
	}
	return append(args, "--timezone", zone)
}

// keeps are the ids of the points that have to stay, of those that are listed, in the order of
// their numbers, apart from the last one that was verified.
func (p policy) keeps(listed []pointOnDisk, protected map[string]bool) map[string]bool {
	kept := map[string]bool{}
	local, err := time.LoadLocation(zone)
	if err != nil {
		panic(err)
	}
	buckets := []struct {
		n  int
		of func(pointOnDisk) string
	}{
		{p.last, func(q pointOnDisk) string { return q.ID }},
		{p.hourly, func(q pointOnDisk) string { return q.Time.UTC().Format("2006-01-02 15") }},
		{p.daily, func(q pointOnDisk) string { return q.Time.In(local).Format("2006-01-02") }},
		{p.weekly, func(q pointOnDisk) string { y, w := q.Time.In(local).ISOWeek(); return fmt.Sprint(y, "/", w) }},
		{p.month, func(q pointOnDisk) string { return q.Time.In(local).Format("2006-01") }},
	}
	for _, b := range buckets {
		seen := map[string]bool{}
		for _, q := range slices.Backward(listed) {
			if name := b.of(q); len(seen) < b.n && !seen[name] {
				seen[name], kept[q.ID] = true, true
			}
		}
	}
	base := false
	for i, q := range slices.Backward(listed) {
		newest := listed[len(listed)-1].Time
		switch {
		case i == len(listed)-1, protected[q.ID]:
			kept[q.ID] = true
		case p.withinDays > 0 && !q.Time.In(local).Before(newest.In(local).AddDate(0, 0, -p.withinDays)):
			kept[q.ID] = true
		}
		if !base && q.isBase() {
			base, kept[q.ID] = true, true
		}
	}
	return kept
}
