package instants

import (
	"bytes"
	"slices"
	"testing"

	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/manifest"
)

// Whatever instants.json holds: what is read is what would be written, and no identity of
// it is one that a file or a checkpoint cannot be named after.
func FuzzInstants(f *testing.F) {
	data, err := digest.EncodeJSON(List{Format: manifest.Format, Highest: 2, Issued: []Instant{
		{Identity: "0123456789abcdef", Point: "check2", Checkpoint: true, State: Retired, Process: Process{PID: 1}},
	}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data[:len(data)-digest.TailLength])
	f.Add(bytes.Replace(data[:len(data)-digest.TailLength], []byte(`"retired"`), []byte(`"tired"`), 1))
	f.Fuzz(func(t *testing.T, body []byte) {
		is, err := parse(slices.Concat(body, []byte(digest.Tail(body))))
		if err != nil {
			return
		}
		for _, i := range is.Issued {
			if !slices.Contains([]State{Issued, Lost, Retired}, i.State) {
				t.Errorf("state %q", i.State)
			}
			point, identity, ok := manifest.ParseCheckpointName(i.CheckpointName())
			if _, n, err := manifest.ParsePointID(point); !ok || identity != i.Identity || point != i.Point || err != nil || n > is.Highest {
				t.Errorf("%+v is not refused, the highest number is %d", i, is.Highest)
			}
		}
		written, err := digest.EncodeJSON(is)
		if err != nil {
			return // a year that JSON does not take
		}
		if again, err := parse(written); err != nil || len(again.Issued) != len(is.Issued) || again.Highest != is.Highest {
			t.Errorf("read again: %+v, %v", again, err)
		}
	})
}
