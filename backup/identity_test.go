package backup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/xml"
)

// A file keeps its identity when it is written to or moved; a copy has another
// one, also at the same path.
func TestIdentify(t *testing.T) {
	dir := t.TempDir()
	path, moved := filepath.Join(dir, "disk"), filepath.Join(dir, "moved")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(path, "one")
	first := identify(path)
	if !strings.HasPrefix(first, "file:") {
		t.Fatalf("identity %q", first)
	}
	write(path, "two")
	link := filepath.Join(dir, "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if identify(path) != first || identify(link) != first {
		t.Errorf("got %q, by a link %q, want %q", identify(path), identify(link), first)
	}
	if err := os.Rename(path, moved); err != nil {
		t.Fatal(err)
	}
	write(path, "two")
	if identify(moved) != first || identify(path) == first {
		t.Errorf("moved %q, another one %q, first %q", identify(moved), identify(path), first)
	}
	for _, path := range []string{filepath.Join(dir, "absent"), dir, "/dev/null", "rbd:pool/image"} {
		if got := identify(path); got != "" {
			t.Errorf("%s: %q", path, got)
		}
	}
	all := imagesOf(xml.Disk{Source: path, Backing: []string{moved}})
	if len(all) != 2 || all[1] != (image{moved, first}) {
		t.Errorf("images %v", all)
	}
}

func TestReplaced(t *testing.T) {
	a := manifest.Disk{Source: "/a", SourceID: "file:1"}
	old := manifest.Disk{Source: "/a"} // of a version that recorded no identity
	for _, tt := range []struct {
		name   string
		base   manifest.Disk
		images []image
		want   string // a part of it; "" not replaced
	}{
		{"the same", a, []image{{"/a", "file:1"}}, ""},
		{"moved", a, []image{{"/b", "file:1"}}, ""},
		{"another file", a, []image{{"/a", "file:2"}}, "was replaced by another file"},
		{"another place", a, []image{{"/b", "file:2"}}, "(/a, now /b)"},
		{"snapshot", a, []image{{"/b", "file:2"}, {"/a", "file:1"}}, ""},
		{"snapshot of another file", a, []image{{"/b", "file:2"}, {"/a", "file:3"}}, "(/a, now /b)"},
		{"identity unknown now", a, []image{{"/a", ""}}, ""},
		{"identity unknown now, another place", a, []image{{"/b", ""}}, "(/a, now /b)"},
		{"identity unknown then", old, []image{{"/a", "file:2"}}, ""},
		{"identity unknown then, another place", old, []image{{"/b", "file:2"}}, "(/a, now /b)"},
		{"nothing known then", manifest.Disk{}, []image{{"/a", "file:2"}}, ""},
		{"nothing known now", a, nil, ""},
	} {
		if got := replaced(tt.base, tt.images); (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}
