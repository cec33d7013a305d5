package meter

import "testing"

type taken int64

func (t taken) Taken() int64 { return int64(t) }

func TestMeter(t *testing.T) {
	var m Meter
	m.Expect(map[string]int64{"vda": 100, "vdb": -1})
	for _, tt := range []struct {
		target string
		want   int64
	}{{"vda", 100}, {"vdb", 1000}, {"vdc", 1000}} { // what is unknown may be all of the disk
		if got := m.Most(tt.target, 1000); got != tt.want {
			t.Errorf("most of %s: %d, want %d", tt.target, got, tt.want)
		}
	}
	m.Note("vda", 101)
	m.Note("vda", 50) // an earlier part may be noted later
	m.Note("vdb", 7)
	if got := m.Most("vda", 1000); got != 1000 {
		t.Errorf("more than expected was copied: most is %d", got)
	}
	if _, copied := m.Read(); copied != 108 {
		t.Errorf("%d bytes copied, want 108", copied)
	}
	m.Writes(taken(3))
	m.Writes(taken(4))
	if got := m.Taken(); got != 7 {
		t.Errorf("%d bytes taken, want 7", got)
	}
}

func TestIdle(t *testing.T) {
	var m Meter
	before, _ := m.Read()
	m.Moves()
	if idle, _ := m.Read(); idle >= before || idle < 0 {
		t.Errorf("idle for %v, and for %v before it moved", idle, before)
	}
}
