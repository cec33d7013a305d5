package define

import (
	"os"
	"path/filepath"
	"testing"
)

func TestOwnerOf(t *testing.T) {
	for label, want := range map[string]owner{
		"+12345:+12346": {uid: 12345, gid: 12346, name: "12345"},
		"12345:12346":   {uid: 12345, gid: 12346, name: "12345"},
		"nobody:12346":  {uid: 65534, gid: 12346, name: "nobody"},
		"nobody":        {uid: 65534, gid: 65534, name: "nobody"},
	} {
		if got, err := ownerOf(label); err != nil || got == nil || got.uid != want.uid || got.gid != want.gid || got.name != want.name {
			t.Errorf("%s: got %+v, %v, want %+v", label, got, err, want)
		}
	}
	for _, label := range []string{"root:root", "+0:+0"} {
		if got, err := ownerOf(label); got != nil || err != nil {
			t.Errorf("%s: %+v, %v; root may everything", label, got, err)
		}
	}
	if got, err := ownerOf("vbtest-nobody:x"); err == nil {
		t.Errorf("an unknown user is %+v", got)
	}
}

// The kernel is asked, in the place of the user, about the directory and those above it.
func TestCanEnter(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	parent, err := os.MkdirTemp("/var/tmp", "vbtest-enter-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(parent)
	dir := filepath.Join(parent, "dir")
	if err := os.Mkdir(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	o := owner{uid: 12345, gid: 12346}
	for mode, want := range map[os.FileMode]bool{0o700: false, 0o711: true, 0o744: false, 0o710: false} {
		if err := os.Chmod(parent, mode); err != nil {
			t.Fatal(err)
		}
		if got := o.canEnter(dir); got != want {
			t.Errorf("mode %v above: %v", mode, got)
		}
	}
	if err := os.Chown(parent, 0, 12346); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(parent, 0o710); err != nil {
		t.Fatal(err)
	}
	if !o.canEnter(dir) {
		t.Error("its group may enter")
	}
	if other := (owner{uid: 12345, gid: 1, groups: []uint32{2, 12346}}); !other.canEnter(dir) {
		t.Error("one of its groups may enter")
	}
}
