package pull

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/source"
	"github.com/virtbackup/virtbackup/xml"
)

// A file keeps its identity when it is written to or moved. A copy has another identity,
// even at the same path.
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
	if len(all) != 2 || all[1] != (source.Image{Source: moved, ID: first}) {
		t.Errorf("images %v", all)
	}
}
