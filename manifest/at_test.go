package manifest

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// taken makes a point of that instant, in local time.
func taken(id, when string) Manifest {
	t, err := time.ParseInLocation("2006-01-02 15:04:05.000", when, time.Local)
	if err != nil {
		panic(err)
	}
	return Manifest{ID: id, Time: t.UTC()}
}

func TestResolve(t *testing.T) {
	// The clock went back between check4 and check5, whose numbers say which is newer.
	points := []Manifest{
		taken("check1", "2026-11-18 02:00:00.500"), taken("check2", "2026-11-19 02:00:00.000"), taken("diff3", "2026-11-19 14:30:20.250"),
		taken("check4", "2026-11-20 02:00:00.000"), taken("check5", "2026-11-20 01:00:00.000"),
	}
	for at, want := range map[string]string{
		Latest:                              "check5",
		"check1":                            "check1",
		"diff3":                             "diff3",
		"check5":                            "check5",
		"2026-11-18":                        "check1", // the end of that day
		"2026-11-19":                        "diff3",
		"2030-01-01":                        "check4",
		"2026-11-18 02:00":                  "check1", // the end of that minute
		"2026-11-18 02:00:00":               "check1", // as list prints it: the end of that second
		"2026-11-19 01:59:59":               "check1",
		"2026-11-19 02:00:00":               "check2",
		"2026-11-19T14:30":                  "diff3",
		"2026-11-19T14:30:19":               "check2",
		"2026-11-20 01:30":                  "check5",
		points[1].Time.Format(time.RFC3339): "check2",
		points[2].Time.Add(-time.Millisecond).Format(time.RFC3339Nano): "check2",
		points[2].Time.Format(time.RFC3339Nano):                        "diff3",
	} {
		if got, err := Resolve("vm1", points, at); err != nil || got.ID != want {
			t.Errorf("%s: got %s, %v, want %s", at, got.ID, err, want)
		}
	}
	// Points of one instant: the highest number.
	same := []Manifest{taken("check1", "2026-11-18 02:00:00.000"), taken("check9", "2026-11-18 02:00:00.000"), taken("diff10", "2026-11-18 02:00:00.000")}
	if got, err := Resolve("vm1", same, "2026-11-18"); err != nil || got.ID != "diff10" {
		t.Errorf("points of one instant: got %s, %v, want diff10", got.ID, err)
	}
	if got, err := Resolve("vm1", []Manifest{same[0], same[2], same[1]}, Latest); err != nil || got.ID != "diff10" {
		t.Errorf("the newest of points in another order: got %s, %v, want diff10", got.ID, err)
	}
	for at, want := range map[string]string{
		"2026-11-17":               "no point at or before 2026-11-17 23:59:59: the first is check1 of 2026-11-18 02:00:00",
		"2026-11-18 01:59":         "no point at or before",
		"check9":                   `has no point check9`,
		"2026-13-45":               "no time either",
		"":                         "no time either",
		"2026-11-18T01:00:00Z and": "no time either",
	} {
		_, err := Resolve("vm1", points, at)
		var missing *NoPointError
		if !errors.As(err, &missing) || !strings.Contains(err.Error(), want) || missing.Hint() == "" {
			t.Errorf("%s: got %v, want %q and a hint", at, err, want)
		}
	}
	if _, err := Resolve("vm1", nil, Latest); err == nil || !strings.Contains(err.Error(), "no point of domain vm1") {
		t.Errorf("no points: got %v", err)
	}
}
