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

// A bitmap that an overlay has must be in the image that it was made in, too.
func TestLost(t *testing.T) {
	a, top := Image{Source: "/a", ID: "file:1"}, Image{Source: "/b", ID: "file:2", Bitmaps: []string{"c"}}
	with := func(bitmaps ...string) Image { return Image{Source: "/a", ID: "file:1", Bitmaps: bitmaps} }
	for _, tt := range []struct {
		name string
		now  []Image
		want bool
	}{
		{"there", []Image{top, with("b", "c")}, false},
		{"lost", []Image{top, with("b")}, true},
		{"all lost", []Image{top, {Source: "/a", ID: "file:1", Bitmaps: []string{}}}, true},
		{"unknown", []Image{top, with()}, false},
		{"another image", []Image{top, {Source: "/a", ID: "file:3", Bitmaps: []string{}}}, false},
		{"the top one", []Image{with("b")}, false}, // that is found out by all
	} {
		if got := Lost(a, tt.now, "c"); (got != "") != tt.want {
			t.Errorf("%s: got %q", tt.name, got)
		}
	}
}
