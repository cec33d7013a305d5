package repository

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Parts is how many parts each file of a point has that verifications may prove one by one.
const Parts = 100

// Dates are when each part of a file was last compared with its hash, in milliseconds since
// 1970; 0 is never.
type Dates [Parts]int64

// allAt are the dates of a file that was read as a whole.
func allAt(t time.Time) (d Dates) {
	for i := range d {
		d[i] = t.UnixMilli()
	}
	return d
}

// Oldest are the n parts that were proven longest ago, never first, in ascending order.
func (d Dates) Oldest(n int) []int {
	order := make([]int, Parts)
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case d[a] < d[b]:
			return -1
		case d[a] > d[b]:
			return 1
		}
		return 0
	})
	order = order[:min(max(n, 0), Parts)]
	slices.Sort(order)
	return order
}

// proven is how many parts were ever proven, which is their percentage, too.
func (d Dates) proven() (n int) {
	for _, at := range d {
		if at != 0 {
			n++
		}
	}
	return n
}

// forgetAfter counts what a clock said that went wrong as never.
func (d *Dates) forgetAfter(limit int64) {
	for i := range d {
		if d[i] > limit || d[i] < 0 {
			d[i] = 0
		}
	}
}

// String has runs of parts with the same date, as verified.json: "10:1764519639123 90:0".
func (d Dates) String() string {
	var b strings.Builder
	for i := 0; i < Parts; {
		n := 1
		for i+n < Parts && d[i+n] == d[i] {
			n++
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%d:%d", n, d[i])
		i += n
	}
	return b.String()
}

var errNoDates = errors.New("not the dates of a file's parts")

// parseDates is the inverse of String.
func parseDates(s string) (d Dates, err error) {
	next := 0
	for run := range strings.SplitSeq(s, " ") {
		number, date, _ := strings.Cut(run, ":")
		n, err := strconv.Atoi(number)
		if err != nil || n <= 0 || n > Parts-next {
			return Dates{}, errNoDates
		}
		at, err := strconv.ParseInt(date, 10, 64)
		if err != nil || at < 0 {
			return Dates{}, errNoDates
		}
		for range n {
			d[next] = at
			next++
		}
	}
	if next != Parts {
		return Dates{}, errNoDates
	}
	return d, nil
}
