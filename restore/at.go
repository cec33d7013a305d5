package restore

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/virtbackup/virtbackup/repository"
)

// Latest names the newest point: the one with the highest number, whatever the
// clock of the host was when it was made.
const Latest = "latest"

// layouts of a time on the command line; those without a zone are local time.
var layouts = []string{
	time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04", "2006-01-02",
}

// Resolve finds the point that at names: an id, "latest", or a time, which means
// the newest point at or before it by the points' own times, of equals the one
// with the highest number. A time is written as 2006-01-02, 2006-01-02
// 15:04, 2006-01-02 15:04:05 (local time), or RFC 3339; a day means its end.
// points are those of one domain, oldest first.
func Resolve(domain string, points []repository.Manifest, at string) (repository.Manifest, error) {
	list := fmt.Sprintf("virtbackup list %s", domain)
	if len(points) == 0 {
		return repository.Manifest{}, &NotFoundError{fmt.Sprintf("there is no point of domain %s", domain), "virtbackup list"}
	}
	if at == Latest {
		return slices.MaxFunc(points, compareNumbers), nil
	}
	if i := slices.IndexFunc(points, func(m repository.Manifest) bool { return m.ID == at }); i >= 0 {
		return points[i], nil
	}
	instant, ok := parseTime(at)
	if !ok {
		return repository.Manifest{}, &NotFoundError{
			fmt.Sprintf("domain %s has no point %q, and that is no time either", domain, at),
			list + " shows the points; times look like 2006-01-02 15:04:05"}
	}
	early := slices.DeleteFunc(slices.Clone(points), func(m repository.Manifest) bool { return m.Time.After(instant) })
	if len(early) == 0 {
		first := slices.MinFunc(points, func(a, b repository.Manifest) int { return a.Time.Compare(b.Time) })
		return repository.Manifest{}, &NotFoundError{
			fmt.Sprintf("domain %s has no point at or before %s: the first is %s of %s", domain,
				instant.Local().Format(time.DateTime), first.ID, first.Time.Local().Format(time.DateTime)), list}
	}
	return slices.MaxFunc(early, func(a, b repository.Manifest) int {
		return cmp.Or(a.Time.Compare(b.Time), compareNumbers(a, b))
	}), nil
}

func compareNumbers(a, b repository.Manifest) int { return cmp.Compare(a.Number(), b.Number()) }

// parseTime reads a time. A reader sees times to the second, so one that is
// given without a fraction means the end of its second, minute or day.
func parseTime(s string) (time.Time, bool) {
	for _, layout := range layouts {
		t, err := time.ParseInLocation(layout, s, time.Local)
		if err != nil {
			continue
		}
		switch {
		case layout == time.DateOnly:
			t = t.AddDate(0, 0, 1).Add(-1)
		case !strings.Contains(layout, ":05"):
			t = t.Add(time.Minute - 1)
		case t.Nanosecond() == 0:
			t = t.Add(time.Second - 1)
		}
		return t, true
	}
	return time.Time{}, false
}
