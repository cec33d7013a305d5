package fileid

import (
	"os"
	"path/filepath"
	"testing"
)

func idOf(t *testing.T, path string) string {
	t.Helper()
	id, err := Of(path)
	if err != nil {
		t.Fatal(err)
	}
	return id.String()
}

// A copy is another file, even at the path of the original; the moved original is the same.
func TestOf(t *testing.T) {
	dir := t.TempDir()
	path, aside := filepath.Join(dir, "file"), filepath.Join(dir, "aside")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := idOf(t, path)
	if err := os.Rename(path, aside); err != nil {
		t.Fatal(err)
	}
	if moved := idOf(t, aside); moved != before {
		t.Errorf("moved: %s, was %s", moved, before)
	}
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if copied := idOf(t, path); copied == before {
		t.Errorf("the copy is %s, as the original", copied)
	}
	if err := os.Symlink(aside, path+"-link"); err != nil {
		t.Fatal(err)
	}
	if linked := idOf(t, path+"-link"); linked != before {
		t.Errorf("through a link: %s, want %s", linked, before)
	}
	if _, err := Of(filepath.Join(dir, "absent")); !os.IsNotExist(err) {
		t.Errorf("what is not there: %v", err)
	}
}

func TestString(t *testing.T) {
	for want, id := range map[string]ID{"7": {Device: "8:1", Inode: 7}, "7@5.000000001": {Device: "8:2", Inode: 7, Birth: "5.000000001"}} {
		if got := id.String(); got != want {
			t.Errorf("%+v is %s, want %s", id, got, want)
		}
	}
}
