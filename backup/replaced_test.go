package backup

import (
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/source"
)

func TestReplaced(t *testing.T) {
	a := manifest.Disk{Source: "/a", SourceID: "file:1"}
	old := manifest.Disk{Source: "/a"} // of a version that recorded no identity
	for _, tt := range []struct {
		name   string
		base   manifest.Disk
		images []source.Image
		want   string // a part of it; "" not replaced
	}{
		{"the same", a, []source.Image{{Source: "/a", ID: "file:1"}}, ""},
		{"moved", a, []source.Image{{Source: "/b", ID: "file:1"}}, ""},
		{"another file", a, []source.Image{{Source: "/a", ID: "file:2"}}, "was replaced by another file"},
		{"another place", a, []source.Image{{Source: "/b", ID: "file:2"}}, "(/a, now /b)"},
		{"snapshot", a, []source.Image{{Source: "/b", ID: "file:2"}, {Source: "/a", ID: "file:1"}}, ""},
		{"snapshot of another file", a, []source.Image{{Source: "/b", ID: "file:2"}, {Source: "/a", ID: "file:3"}}, "(/a, now /b)"},
		{"identity unknown now", a, []source.Image{{Source: "/a", ID: ""}}, ""},
		{"identity unknown now, another place", a, []source.Image{{Source: "/b", ID: ""}}, "(/a, now /b)"},
		{"identity unknown then", old, []source.Image{{Source: "/a", ID: "file:2"}}, ""},
		{"identity unknown then, another place", old, []source.Image{{Source: "/b", ID: "file:2"}}, "(/a, now /b)"},
		{"nothing known then", manifest.Disk{}, []source.Image{{Source: "/a", ID: "file:2"}}, ""},
		{"nothing known now", a, nil, ""},
	} {
		if got := replaced(tt.base, tt.images); (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}
