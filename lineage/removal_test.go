package lineage

import (
	"slices"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/manifest"
)

// FuzzRemoval feeds content whose digest is right: what is accepted is that of the point.
func FuzzRemoval(f *testing.F) {
	m := manifest.Manifest{ID: "check1", Identity: "0123456789abcdef", Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)}
	data, err := digest.EncodeJSON(Removal{Format: manifest.Format, Point: m.ID, Identity: m.Identity, PointTime: m.Time, Reason: "policy"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data[:len(data)-digest.TailLength])
	f.Add([]byte(`{"format":1`))
	f.Fuzz(func(t *testing.T, body []byte) {
		parseRemoval(body, m)
		removal, err := parseRemoval(slices.Concat(body, []byte(digest.Tail(body))), m)
		if err == nil && (removal.Point != m.ID || removal.Identity != m.Identity || !removal.PointTime.Equal(m.Time)) {
			t.Errorf("accepted %+v", removal)
		}
	})
}
