package source

import (
	"slices"
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

// Other backing files below the image of the base show other content; images above it do not matter.
func TestRebased(t *testing.T) {
	a := Image{Source: "/a", ID: "file:1"}
	b, c, top := Image{Source: "/b", ID: "file:2"}, Image{Source: "/c", ID: "file:3"}, Image{Source: "/top", ID: "file:9"}
	template := func(written string) Image {
		return Image{Source: "/b", ID: "file:2", Written: written, Bitmaps: []string{}}
	}
	below := []string{"file:2", "file:3"}
	for _, tt := range []struct {
		name  string
		below []string
		now   []Image
		want  string // a part of it; "" not rebased
	}{
		{"the same", below, []Image{a, b, c}, ""},
		{"snapshot", below, []Image{top, a, b, c}, ""},
		{"moved", below, []Image{a, {Source: "/d", ID: "file:2"}, c}, ""},
		{"replaced in place", below, []Image{a, {Source: "/b", ID: "file:4"}, c}, "its backing file /b is not"},
		{"the lowest", below, []Image{top, a, b, {Source: "/d", ID: "file:4"}}, "its backing file /d is not"},
		{"swapped", below, []Image{a, c, b}, "its backing file /c is not"},
		{"one less", below, []Image{a, b}, "(2 then, 1 now)"},
		{"none", below, []Image{a}, "(2 then, 0 now)"},
		{"one more between", below, []Image{a, top, b, c}, "(2 then, 3 now)"},
		{"none then", []string{}, []Image{a, b}, "(0 then, 1 now)"},
		{"none then, and now", []string{}, []Image{top, a}, ""},
		{"unknown then", []string{"", "file:3"}, []Image{a, b, c}, ""},
		{"unknown now", below, []Image{a, {Source: "/d"}, c}, ""},
		{"not recorded", nil, []Image{a, b}, ""},
		{"images unknown now", below, nil, ""},
		{"not written to", []string{"file:2,written:7"}, []Image{a, template("7")}, ""},
		{"written to", []string{"file:2,written:7"}, []Image{top, a, template("8")}, "/b was written to since"},
		{"written to, and another file", []string{"file:4,written:7"}, []Image{a, template("8")}, "/b is not the one"},
		{"time unknown then", []string{"file:2"}, []Image{a, template("8")}, ""},
		{"time unknown now", []string{"file:2,written:7"}, []Image{a, template("")}, ""},
		{"bitmaps unknown now", []string{"file:2,written:7"}, []Image{a, {Source: "/b", ID: "file:2", Written: "8"}}, ""},
		{"has bitmaps now", []string{"file:2,written:7"}, []Image{a, {Source: "/b", ID: "file:2", Written: "8", Bitmaps: []string{"c"}}}, ""},
	} {
		if got := Rebased(a, tt.below, tt.now); (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestBackingIDs(t *testing.T) {
	if got := BackingIDs(nil); got != nil {
		t.Errorf("no images: got %#v", got)
	}
	if got := BackingIDs([]Image{{ID: "file:1"}}); got == nil || len(got) > 0 {
		t.Errorf("no backing files: got %#v", got)
	}
	images := []Image{{ID: "file:1", Written: "6"}, {}, {ID: "file:3"}, {ID: "file:4", Written: "7", Bitmaps: []string{}}, {ID: "file:5", Written: "7", Bitmaps: []string{"c"}}}
	if got := BackingIDs(images); !slices.Equal(got, []string{"", "file:3", "file:4,written:7", "file:5"}) {
		t.Errorf("two backing files: got %#v", got)
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
