package repository

import (
	"slices"
	"testing"
	"time"
)

func TestDatesAsText(t *testing.T) {
	var d Dates
	if d.String() != "100:0" {
		t.Errorf("never: %s", d)
	}
	for i := range 10 {
		d[i] = 1764519639123
	}
	d[98], d[99] = -7, 7
	if d.String() != "10:1764519639123 88:0 1:-7 1:7" {
		t.Errorf("got %s", d)
	}
	for _, d := range []Dates{{}, d, allAt(time.Now())} {
		if got, err := parseDates(d.String()); err != nil || got != d {
			t.Errorf("%s: got %s, %v", d, got, err)
		}
	}
	for _, bad := range []string{"", "100", "99:0", "101:0", "0:1 100:1", "-1:0 101:0", "100:0 ", "100:x", "1:1 1:1", "9999999999999999999:0", "50:1 51:1"} {
		if got, err := parseDates(bad); err == nil || got != (Dates{}) {
			t.Errorf("%q: got %s, %v", bad, got, err)
		}
	}
}

func TestOldestParts(t *testing.T) {
	var d Dates
	for i := range d {
		d[i] = int64(1000 - i)
	}
	d[50] = 0
	if got := d.Oldest(3); !slices.Equal(got, []int{50, 98, 99}) {
		t.Errorf("got %v", got)
	}
	if got := d.Oldest(200); len(got) != Parts {
		t.Errorf("got %d", len(got))
	}
	d[98], d[97] = -2, -1000
	if got := d.Oldest(3); !slices.Equal(got, []int{50, 98, 99}) || d.since() != 0 || d.looks().since() != 0 {
		t.Errorf("of parts that were wrong: %v", got)
	}
	d.forgetAfter(949)
	if d[51] != 949 || d[49] != 0 || d.proven() != 47 || d[98] != -2 || d[97] != 0 {
		t.Errorf("got %s", d)
	}
}
