package qemuuser

import (
	"os"
	"path/filepath"
	"testing"
)

func TestUserOf(t *testing.T) {
	for label, want := range map[string]User{
		"+12345:+12346": {UID: 12345, GID: 12346, Name: "12345"},
		"12345:12346":   {UID: 12345, GID: 12346, Name: "12345"},
		"nobody:12346":  {UID: 65534, GID: 12346, Name: "nobody"},
		"nobody":        {UID: 65534, GID: 65534, Name: "nobody"},
	} {
		if got, err := userOf(label); err != nil || got == nil || got.UID != want.UID || got.GID != want.GID || got.Name != want.Name {
			t.Errorf("%s: got %+v, %v, want %+v", label, got, err, want)
		}
	}
	for _, label := range []string{"root:root", "+0:+0"} {
		if got, err := userOf(label); got != nil || err != nil {
			t.Errorf("%s: %+v, %v; root may everything", label, got, err)
		}
	}
	if got, err := userOf("vbtest-nobody:x"); err == nil {
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
	o := User{UID: 12345, GID: 12346}
	for mode, want := range map[os.FileMode]bool{0o700: false, 0o711: true, 0o744: false, 0o710: false} {
		if err := os.Chmod(parent, mode); err != nil {
			t.Fatal(err)
		}
		if got := o.CanEnter(dir); got != want {
			t.Errorf("mode %v above: %v", mode, got)
		}
	}
	if err := os.Chown(parent, 0, 12346); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(parent, 0o710); err != nil {
		t.Fatal(err)
	}
	if !o.CanEnter(dir) {
		t.Error("its group may enter")
	}
	if other := (User{UID: 12345, GID: 1, groups: []uint32{2, 12346}}); !other.CanEnter(dir) {
		t.Error("one of its groups may enter")
	}
}
