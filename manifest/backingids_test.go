package manifest

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// No backing files are not the same as unknown ones, in a manifest, too.
func TestBackingIDsRoundTrip(t *testing.T) {
	for _, ids := range [][]string{nil, {}, {"file:1", ""}} {
		data, err := json.Marshal(Disk{SourceBackingIDs: ids})
		if err != nil {
			t.Fatal(err)
		}
		var d Disk
		if err := json.Unmarshal(data, &d); err != nil {
			t.Fatal(err)
		}
		if (d.SourceBackingIDs == nil) != (ids == nil) || !slices.Equal(d.SourceBackingIDs, ids) {
			t.Errorf("%#v became %#v: %s", ids, d.SourceBackingIDs, data)
		}
		if has := strings.Contains(string(data), "source_backing_ids"); has != (ids != nil) {
			t.Errorf("%#v: %s", ids, data)
		}
	}
}

// What is beyond the bounds is recorded as unknown: a backup does not fail because of it.
func TestBoundBackingIDs(t *testing.T) {
	long := strings.Repeat("x", maxBackingID+1)
	got := BoundBackingIDs([]string{"file:1", long, long[1:]})
	if !slices.Equal(got, []string{"file:1", "", long[1:]}) || validateBackingIDs(got) != nil {
		t.Errorf("got %q", got)
	}
	if got := BoundBackingIDs(make([]string, maxBackingIDs+1)); got != nil {
		t.Errorf("%d are recorded", len(got))
	}
	if got := BoundBackingIDs([]string{}); got == nil {
		t.Error("none became unknown")
	}
}
