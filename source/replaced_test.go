package source

import (
	"strings"
	"testing"
)

func TestReplaced(t *testing.T) {
	a := Image{Source: "/a", ID: "file:1"}
	old := Image{Source: "/a"} // of a version that recorded no identity
	for _, tt := range []struct {
		name   string
		base   Image
		images []Image
		want   string // a part of it; "" not replaced
	}{
		{"the same", a, []Image{{Source: "/a", ID: "file:1"}}, ""},
		{"moved", a, []Image{{Source: "/b", ID: "file:1"}}, ""},
		{"another file", a, []Image{{Source: "/a", ID: "file:2"}}, "was replaced by another file"},
		{"another place", a, []Image{{Source: "/b", ID: "file:2"}}, "(/a, now /b)"},
		{"snapshot", a, []Image{{Source: "/b", ID: "file:2"}, {Source: "/a", ID: "file:1"}}, ""},
		{"snapshot of another file", a, []Image{{Source: "/b", ID: "file:2"}, {Source: "/a", ID: "file:3"}}, "(/a, now /b)"},
		{"identity unknown now", a, []Image{{Source: "/a", ID: ""}}, ""},
		{"identity unknown now, another place", a, []Image{{Source: "/b", ID: ""}}, "(/a, now /b)"},
		{"identity unknown then", old, []Image{{Source: "/a", ID: "file:2"}}, ""},
		{"identity unknown then, another place", old, []Image{{Source: "/b", ID: "file:2"}}, "(/a, now /b)"},
		{"nothing known then", Image{}, []Image{{Source: "/a", ID: "file:2"}}, ""},
		{"nothing known now", a, nil, ""},
	} {
		if got := Replaced(tt.base, tt.images); (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}
