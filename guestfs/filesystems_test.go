package guestfs

import (
	"log/slog"
	"testing"

	"github.com/virtbackup/virtbackup/internal/fail"
)

func TestNameOf(t *testing.T) {
	targets := []string{"vda", "sdb"}
	for device, want := range map[string]string{
		"/dev/sda": "vda", "/dev/sda1": "vda1", "/dev/sdb12": "sdb12", "/dev/sdc1": "sdc1", "/dev/vg/root": "vg/root",
		"btrfsvol:/dev/sda2/@home": "btrfsvol:/dev/vda2/@home", "/dev/md127": "md127",
	} {
		if got := nameOf(device, targets); got != want {
			t.Errorf("%s: %s, want %s", device, got, want)
		}
	}
	for letters, want := range map[string]int{"a": 0, "z": 25, "aa": 26, "ab": 27} {
		if got := diskNumber(letters); got != want {
			t.Errorf("%s: %d, want %d", letters, got, want)
		}
	}
}

func TestSplit(t *testing.T) {
	s := &Session{log: slog.New(slog.DiscardHandler), filesystems: []Filesystem{{Name: "vda1", Type: "ext4"}, {Name: "vg/home", Type: "xfs"}, {Name: "btrfsvol:/dev/vda2/@", Type: "btrfs"}, {Name: "vda3", Type: "swap"}}}
	for path, want := range map[string][2]string{
		"/etc": {"", "/etc"}, "/a:/b": {"", "/a:/b"}, "vda1:/etc": {"vda1", "/etc"}, "vg/home:/a:/b": {"vg/home", "/a:/b"}, "vda1:": {"vda1", "/"},
		"btrfsvol:/dev/vda2/@:/etc": {"btrfsvol:/dev/vda2/@", "/etc"},
	} {
		f, inside, err := s.split(path)
		name := ""
		if f != nil {
			name = f.Name
		}
		if err != nil || name != want[0] || inside != want[1] {
			t.Errorf("%s: %q, %q, %v", path, name, inside, err)
		}
	}
	for path, kind := range map[string]fail.Kind{"etc": fail.Usage, "vdc:/etc": fail.NotFound} {
		_, _, err := s.split(path)
		if fail.KindOf(err) != kind {
			t.Errorf("%s: %v", path, err)
		}
	}
	_, _, err := s.split("vdc:/etc")
	if want := "put one of them before the path, such as btrfsvol:/dev/vda2/@:/PATH: btrfsvol:/dev/vda2/@ (btrfs), vda1 (ext4), vg/home (xfs)"; fail.HintOf(err) != want {
		t.Errorf("the hint is %q", fail.HintOf(err))
	}
}

// What cannot be read is told apart before the appliance tries to.
func TestUnreadable(t *testing.T) {
	for kind, want := range map[string]fail.Kind{"swap": fail.Usage, "": fail.Usage, "crypto_LUKS": fail.Other} {
		s := &Session{filesystems: []Filesystem{{Name: "vda1", Type: kind}}, inspected: true}
		if err := s.mountOne(s.filesystems[0]); err == nil || fail.KindOf(err) != want {
			t.Errorf("%q: %v", kind, err)
		}
		if err := s.mountGuest(); err == nil || (kind == "crypto_LUKS") != (fail.HintOf(err) != "") {
			t.Errorf("%q: %v, hint %q", kind, err, fail.HintOf(err))
		}
	}
}
