package manifest

import (
	"errors"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // a bare machine has no zones
)

// inZone sets local time for a test.
func inZone(t *testing.T, name string) {
	t.Helper()
	zone, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	before := time.Local
	time.Local = zone
	t.Cleanup(func() { time.Local = before })
}

// The clocks of Berlin went from 03:00 back to 02:00 on 2026-10-25, at 01:00 UTC; those
// of Lord Howe go back by half an hour.
func TestTimeOfTheRepeatedHour(t *testing.T) {
	for zone, tests := range map[string]map[string]string{
		"Europe/Berlin": {
			"2026-10-24T23:59:59Z": "2026-10-25 01:59:59",
			"2026-10-25T00:00:00Z": "2026-10-25 02:00:00 +0200",
			"2026-10-25T00:30:00Z": "2026-10-25 02:30:00 +0200",
			"2026-10-25T01:30:00Z": "2026-10-25 02:30:00 +0100",
			"2026-10-25T01:59:59Z": "2026-10-25 02:59:59 +0100",
			"2026-10-25T02:00:00Z": "2026-10-25 03:00:00",
			"2026-03-29T01:00:00Z": "2026-03-29 03:00:00",
		},
		"Australia/Lord_Howe": {"2026-04-04T14:45:00Z": "2026-04-05 01:45:00 +1100", "2026-04-04T15:15:00Z": "2026-04-05 01:45:00 +1030", "2026-04-04T15:30:00Z": "2026-04-05 02:00:00"},
		"UTC":                 {"2026-10-25T00:30:00Z": "2026-10-25 00:30:00"},
	} {
		inZone(t, zone)
		for utc, want := range tests {
			instant, err := time.Parse(time.RFC3339, utc)
			if err != nil {
				t.Fatal(err)
			}
			text := TimeText(instant)
			if text != want {
				t.Errorf("%s: %s is %q, want %q", zone, utc, text, want)
			}
			if got := parseTime(text); len(got) != 1 || !got[0].start.Equal(instant) {
				t.Errorf("%s: %q is read as %v", zone, text, got)
			}
		}
	}
}

func TestResolveInTheRepeatedHour(t *testing.T) {
	inZone(t, "Europe/Berlin")
	at := func(id, utc string) Manifest {
		instant, err := time.Parse(time.RFC3339, utc)
		if err != nil {
			t.Fatal(err)
		}
		return Manifest{ID: id, Time: instant}
	}
	points := []Manifest{at("check1", "2026-10-25T00:30:00Z"), at("check2", "2026-10-25T01:10:00Z")}
	for text, want := range map[string]string{
		"2026-10-25 02:30 +0200":    "check1",
		"2026-10-25 02:30:00 +0200": "check1",
		"2026-10-25T02:30:00+02:00": "check1",
		"2026-10-25 02:30 +0100":    "check2",
		"2026-10-25 03:00":          "check2",
		"2026-10-25":                "check2",
	} {
		if got, err := Resolve("vm1", points, text); err != nil || got.ID != want {
			t.Errorf("%s: got %s, %v, want %s", text, got.ID, err, want)
		}
	}
	for _, text := range []string{"2026-10-25 02:40", "2026-10-25 02:20:00"} {
		_, err := Resolve("vm1", points, text)
		var ambiguous *AmbiguousError
		if !errors.As(err, &ambiguous) || !strings.Contains(ambiguous.Hint(), "+0200 or 2026-10-25 02:") {
			t.Errorf("%s: %v", text, err)
		}
	}
	// Both meanings of it name one point.
	if got, err := Resolve("vm1", points[:1], "2026-10-25 02:40"); err != nil || got.ID != "check1" {
		t.Errorf("got %s, %v", got.ID, err)
	}
}

// Whatever form a time of a point is printed in, it finds that point, and names it.
func TestEveryPrintedTimeIsRead(t *testing.T) {
	for _, zone := range []string{"UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu"} {
		inZone(t, zone)
		m := Manifest{ID: "check7", Time: time.Date(2026, 10, 25, 0, 59, 59, 123456789, time.UTC)}
		others := []Manifest{{ID: "check6", Time: m.Time.Add(-2 * time.Hour)}, m, {ID: "check8", Time: m.Time.Add(2 * time.Hour)}}
		for _, text := range []string{
			TimeText(m.Time), TimeTextFine(m.Time), m.Time.Format(time.RFC3339Nano), m.Time.Format(time.RFC3339), m.Time.Local().Format(time.RFC3339Nano),
			m.Time.Local().Format("2006-01-02 15:04 -0700"), m.Time.Format("2006-01-02 15:04:05Z"), "2026-10-25T00:59:59.1234567899Z",
		} {
			if got, err := Resolve("vm1", others, text); err != nil || got.ID != m.ID {
				t.Errorf("%s: %q finds %s, %v", zone, text, got.ID, err)
			}
			if !m.IsNamed(text) || others[0].IsNamed(text) || others[2].IsNamed(text) {
				t.Errorf("%s: %q does not name the point alone", zone, text)
			}
		}
	}
}

func FuzzParseTime(f *testing.F) {
	for _, s := range []string{"2026-10-25", "2026-10-25 02:30", "2026-10-25T02:30:00.123456789+02:00", "2026-10-25 02:30:00,5 -0700", "latest"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for i, p := range parseTime(s) {
			if p.end.Before(p.start.Add(-1)) || i > 1 { // one that the clock left out is empty
				t.Errorf("%q: period %d from %v to %v", s, i, p.start, p.end)
			}
		}
	})
}

// A day begins and ends where its date does, also where the clock goes forward at midnight
// or, in Cuba, back to it; a time that the clock leaves out is the instant of the change.
func TestDaysWhenTheClockChanges(t *testing.T) {
	for _, c := range []struct{ zone, text, start, end string }{
		{"America/Santiago", "2026-09-05", "2026-09-05T04:00:00Z", "2026-09-06T03:59:59.999999999Z"},
		{"America/Santiago", "2026-09-06", "2026-09-06T04:00:00Z", "2026-09-07T02:59:59.999999999Z"},
		{"America/Santiago", "2026-04-04", "2026-04-04T03:00:00Z", "2026-04-05T03:59:59.999999999Z"},
		{"America/Havana", "2025-03-08", "2025-03-08T05:00:00Z", "2025-03-09T04:59:59.999999999Z"},
		{"America/Havana", "2025-11-01", "2025-11-01T04:00:00Z", "2025-11-02T03:59:59.999999999Z"},
		{"America/Havana", "2025-11-02", "2025-11-02T04:00:00Z", "2025-11-03T04:59:59.999999999Z"},
		{"Africa/Cairo", "2026-04-24", "2026-04-23T22:00:00Z", "2026-04-24T20:59:59.999999999Z"},
		{"Asia/Beirut", "2026-03-29", "2026-03-28T22:00:00Z", "2026-03-29T20:59:59.999999999Z"},
		{"Pacific/Apia", "2011-12-29", "2011-12-29T10:00:00Z", "2011-12-30T09:59:59.999999999Z"},
		{"Pacific/Apia", "2011-12-30", "2011-12-30T10:00:00Z", "2011-12-30T09:59:59.999999999Z"},
		{"Europe/Berlin", "2026-03-29 02:30", "2026-03-29T01:00:00Z", "2026-03-29T00:59:59.999999999Z"},
		{"America/New_York", "2026-03-08 02:30:15", "2026-03-08T07:00:00Z", "2026-03-08T06:59:59.999999999Z"},
	} {
		inZone(t, c.zone)
		got := parseTime(c.text)
		if len(got) != 1 {
			t.Errorf("%s: %q is read as %v", c.zone, c.text, got)
			continue
		}
		start, end := got[0].start.UTC().Format(time.RFC3339Nano), got[0].end.UTC().Format(time.RFC3339Nano)
		if start != c.start || end != c.end {
			t.Errorf("%s: %q is read as\n%s to %s, want\n%s to %s", c.zone, c.text, start, end, c.start, c.end)
		}
	}
}

func TestEndOf(t *testing.T) {
	for in, want := range map[string]string{ // as EndText prints it
		"2027-01-01": "2027-01-01", "2027-01-01 12:30": "2027-01-01 12:30:59", "2027-01-01T12:30:15": "2027-01-01 12:30:15", "2026-12-31 23:59:59": "2026-12-31",
	} {
		end, err := EndOf(in)
		if got := EndText(end); err != nil || got != want {
			t.Errorf("%s: %s, %v, want %s", in, got, err, want)
		}
	}
	if end, _ := EndOf("2027-01-01"); end.Add(1).Local().Format(time.DateTime) != "2027-01-02 00:00:00" {
		t.Errorf("the day ends at %v", end)
	}
	for _, in := range []string{"", "latest", "check1", "2027-02-30", "soon"} {
		if end, err := EndOf(in); err == nil {
			t.Errorf("%q: %v", in, end)
		}
	}
}
