package drill

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/virtbackup/virtbackup/internal/fail"
)

// Only damage is a failure of the point: it counts even if something else failed before.
func TestUnreadable(t *testing.T) {
	damage := fail.Errorf(fail.Damaged, "", "a byte has flipped")
	for want, failures := range map[string][]error{
		"other":  {syscall.EIO, syscall.ESTALE},
		"damage": {syscall.EIO, fmt.Errorf("cannot read disk vda: %w", damage), syscall.EIO},
	} {
		d := &drill{server: &server{}}
		for _, f := range failures {
			d.server.found.add(f)
		}
		err := d.unreadable(d.server.failure())
		var not *NotBootedError
		switch got := errors.As(err, &not); want {
		case "damage":
			if !got || !not.Damaged || fail.KindOf(err) != fail.Damaged {
				t.Errorf("%v", err)
			}
		default:
			if got || fail.KindOf(err) == fail.Damaged || !errors.Is(err, syscall.EIO) {
				t.Errorf("%v", err)
			}
		}
	}
}
