package inplace

import (
	"testing"

	"github.com/virtbackup/virtbackup/restore/inplace"
)

// Every point comes back, forwards and backwards, by bitmaps where there are any; the next
// inc is small, and shows what the disks hold.
func TestKinds(t *testing.T) {
	t.Parallel()
	s := kinds(t)
	points(t, s)
	s.Destroy()
	for _, id := range []string{"check2", "check1", "check3", "check1"} {
		r := restored(t, s, id, "--no-save")
		wantPoint(t, s, pointOf(t, s, id))
		for _, d := range r.Disks {
			want := inplace.MethodBitmap
			if d.Format == "raw" {
				want = inplace.MethodCompare
			}
			if d.Method != want || d.Bytes == 0 || d.Bytes > d.VirtualSize/2 {
				t.Errorf("%s to %s: %+v", d.Target, id, d)
			}
		}
	}
	s.Start()
	inc := s.BackUp(0, "inc")
	for _, d := range inc.Point.Disks {
		if d.DataBytes > 10*mib {
			t.Errorf("the next inc of disk %s has %d bytes", d.Target, d.DataBytes)
		}
	}
	s.Check()
}
