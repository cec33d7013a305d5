package manifest

import (
	"strings"
	"testing"
	"time"
)

func TestOddClock(t *testing.T) {
	now := time.Date(2026, 11, 20, 2, 0, 0, 0, time.UTC)
	at := func(id string, since time.Duration) Manifest { return Manifest{ID: id, Time: now.Add(since)} }
	for name, tt := range map[string]struct {
		points []Manifest // the last one is asked about
		want   string
	}{
		"the first":     {[]Manifest{at("check1", 0)}, ""},
		"in order":      {[]Manifest{at("check1", -time.Hour), at("diff2", -time.Minute)}, ""},
		"back":          {[]Manifest{at("check1", -time.Hour), at("check3", -2*time.Hour)}, "not after that of check1"},
		"the same":      {[]Manifest{at("check1", -time.Hour), at("copy2", -time.Hour)}, "not after that of check1"},
		"in the future": {[]Manifest{at("check1", -time.Hour), at("check2", time.Second)}, "in the future"},
		"both":          {[]Manifest{at("check1", time.Hour), at("check2", time.Minute)}, "in the future"},
		// Only the next lower number counts: one wrong point makes one remark.
		"right again": {[]Manifest{at("check1", -time.Hour), at("check2", -3*time.Hour), at("check3", -2*time.Hour)}, ""},
		"alone":       {[]Manifest{at("check1", time.Hour)}, "in the future"},
	} {
		last := len(tt.points) - 1
		got := OddClock(tt.points[last], tt.points[:last], now)
		if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %q, want %q", name, got, tt.want)
		}
	}
	// The order of the list does not matter, and neither does the point itself.
	points := []Manifest{at("check3", -time.Hour), at("check2", -2*time.Hour), at("check1", -3*time.Hour)}
	for _, m := range points {
		if got := OddClock(m, points, now); got != "" {
			t.Errorf("%s: got %q", m.ID, got)
		}
	}
}
