package manifest

import (
	"fmt"
	"time"
)

// OddClock says what is odd about the time of a point: it lies after now, or not
// after that of the point with the next lower number among others, as when the
// host's clock went backwards. It is "" if nothing is. Points are ordered by number, and
// someone who names a point by its time has to know where the two disagree.
func OddClock(m Manifest, others []Manifest, now time.Time) string {
	var before *Manifest
	for i, o := range others {
		if o.Number() < m.Number() && (before == nil || before.Number() < o.Number()) {
			before = &others[i]
		}
	}
	switch {
	case m.Time.After(now):
		return fmt.Sprintf("its time, %s, lies in the future", TimeText(m.Time))
	case before != nil && !m.Time.After(before.Time):
		return fmt.Sprintf("its time, %s, is not after that of %s, %s: the host's clock went backwards", TimeText(m.Time), before.ID, TimeText(before.Time))
	}
	return ""
}
