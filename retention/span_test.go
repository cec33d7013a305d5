package retention

import (
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // a bare machine has no zones

	"github.com/virtbackup/virtbackup/internal/fail"
)

var spans = map[string]Span{
	"14d": {Days: 14}, "36h": {Hours: 36}, "2w": {Days: 14}, "6m": {Months: 6}, "1y": {Years: 1},
	"1y6m14d": {Years: 1, Months: 6, Days: 14}, "1y2m3w4d5h": {1, 2, 25, 5}, "007d": {Days: 7}, "0y1d": {Days: 1},
	"99999d": {Days: 99999}, "99999y99999m99999d99999h": {99999, 99999, 99999, 99999},
}

var noSpans = []string{
	"", "0", "0d", "0y0m0w0d0h", "-1d", "1y-1d", "+1d", "14", "d", "14 d", " 14d", "14d ", "14d\n", "14D", "1.5d", "1d1d", "1d1y", "1h1d",
	"1s", "1min", "١d", "100000d", "14286w", "99999d1w", "99999999999999999999d", "18446744073709551617d", "1d 1h",
	"7905747460161236407w", // seven times this is 1 in 64 bits
}

func TestParseSpan(t *testing.T) {
	for text, want := range spans {
		if got, err := ParseSpan(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, text := range noSpans {
		got, err := ParseSpan(text)
		if fail.KindOf(err) != fail.Usage || !strings.Contains(fail.HintOf(err), "14d, 36h") || got != (Span{}) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

func TestSpanText(t *testing.T) {
	for want, s := range map[string]Span{
		"0d": {}, "14d": {Days: 14}, "12m": {Months: 12}, "24h": {Hours: 24}, "1y2m3d4h": {1, 2, 3, 4}, "1y4h": {Years: 1, Hours: 4},
	} {
		if s.String() != want {
			t.Errorf("%+v: %q, want %q", s, s.String(), want)
		}
		if s.IsZero() != (want == "0d") {
			t.Errorf("%+v: IsZero is %v", s, s.IsZero())
		}
	}
}

func TestSpanBefore(t *testing.T) {
	for _, c := range []struct{ zone, from, span, want string }{
		{"Europe/Berlin", "2026-04-15 02:00:00", "14d", "2026-04-01T00:00:00Z"},
		{"Europe/Berlin", "2026-03-30 12:00:00", "1d", "2026-03-29T10:00:00Z"},
		{"Europe/Berlin", "2026-03-30 12:00:00", "2d", "2026-03-28T11:00:00Z"}, // 47 hours
		{"Europe/Berlin", "2026-03-30 12:00:00", "48h", "2026-03-28T10:00:00Z"},
		{"Europe/Berlin", "2026-10-26 12:00:00", "2d", "2026-10-24T10:00:00Z"}, // 49 hours
		{"Europe/Berlin", "2026-10-26 00:30:00", "1m", "2026-09-25T22:30:00Z"},
		{"UTC", "2026-03-31 12:34:56.789", "1m", "2026-02-28T12:34:56.789Z"},
		{"UTC", "2024-03-31 12:00:00", "1m", "2024-02-29T12:00:00Z"},
		{"UTC", "2024-02-29 12:00:00", "1y", "2023-02-28T12:00:00Z"},
		{"UTC", "2024-02-29 12:00:00", "4y", "2020-02-29T12:00:00Z"},
		{"UTC", "2026-03-31 12:00:00", "1m3d", "2026-02-25T12:00:00Z"},
		{"UTC", "2026-01-01 00:00:00", "1h", "2025-12-31T23:00:00Z"},
		{"UTC", "2026-01-15 00:00:00", "13m", "2024-12-15T00:00:00Z"},
		{"UTC", "2026-07-15 00:00:00", "1y6m14d", "2025-01-01T00:00:00Z"},
		{"UTC", "2026-01-01 00:00:00", "99999h", "2014-08-05T09:00:00Z"},
	} {
		span, err := ParseSpan(c.span)
		if err != nil {
			t.Fatal(err)
		}
		from, err := time.ParseInLocation(time.DateTime, c.from, zone(t, c.zone))
		if err != nil {
			t.Fatal(err)
		}
		if got := span.Before(from).UTC().Format(time.RFC3339Nano); got != c.want {
			t.Errorf("%s before %s in %s: %s, want %s", c.span, c.from, c.zone, got, c.want)
		}
	}
}

// The longest span leads to the past.
func TestLongestSpan(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	if got := (Span{maxCount, maxCount, maxCount, maxCount}).Before(now); !got.Before(now.AddDate(-maxCount, 0, 0)) {
		t.Errorf("%v", got)
	}
}

func FuzzParseSpan(f *testing.F) {
	for text := range spans {
		f.Add(text)
	}
	for _, text := range noSpans {
		f.Add(text)
	}
	now := time.Date(2026, 3, 29, 2, 30, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, text string) {
		span, err := ParseSpan(text)
		if err != nil {
			if fail.KindOf(err) != fail.Usage || fail.HintOf(err) == "" {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		if again, err := ParseSpan(span.String()); err != nil || again != span {
			t.Errorf("%q is %+v, and printed as %s it is %+v, %v", text, span, span, again, err)
		}
		if !span.Before(now).Before(now) {
			t.Errorf("%q before %v is %v", text, now, span.Before(now))
		}
	})
}

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}
