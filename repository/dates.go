package repository

import (
	"cmp"
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
// 1970; 0 is never. Where it was wrong then, the date is negative.
type Dates [Parts]int64

// allAt are the dates of a file that was read as a whole.
func allAt(t time.Time) (d Dates) {
	for i := range d {
		d[i] = t.UnixMilli()
	}
	return d
}

// ReadAt is when a part was last compared with its hash, right or wrong; 0 is never.
func (d Dates) ReadAt(part int) int64 { return max(d[part], -d[part]) }

// Oldest are the n parts that were read longest ago, never first, in ascending order. What stays
// damaged waits for its turn, so that it does not keep the rest from being read.
func (d Dates) Oldest(n int) []int {
	order := make([]int, Parts)
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Compare(d.ReadAt(a), d.ReadAt(b))
	})
	order = order[:min(max(n, 0), Parts)]
	slices.Sort(order)
	return order
}

// proven is how many parts were proven, and are not known to be damaged, which is their
// percentage, too.
func (d Dates) proven() (n int) {
	for _, at := range d {
		if at > 0 {
			n++
		}
	}
	return n
}

// since is when that part was proven which was longest ago; 0 if some are not.
func (d Dates) since() int64 { return max(slices.Min(d[:]), 0) }

// looks are when each part was read, right or wrong.
func (d Dates) looks() (read Dates) {
	for i := range d {
		read[i] = d.ReadAt(i)
	}
	return read
}

// forgetAfter counts what a clock said that went wrong as never.
func (d *Dates) forgetAfter(limit int64) {
	for i := range d {
		if d[i] > limit || d[i] < -limit {
			d[i] = 0
		}
	}
}

// String has runs of parts with the same date, as verified.json: "10:1764519639123 1:-1764519639123 89:0".
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
		if err != nil {
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
