package keep

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/manifest"
)

var testPoint = manifest.Manifest{ID: "check1", Identity: "0123456789abcdef"}

func wantPins(t *testing.T, dir string, want int) []Pin {
	t.Helper()
	pins, damaged, err := Pins(dir)
	if err != nil || len(damaged) > 0 || len(pins) != want {
		t.Fatalf("pins %+v, damaged %q, %v; want %d pins", pins, damaged, err, want)
	}
	return pins
}

// The directory of pins comes with the first and goes with the last.
func TestPins(t *testing.T) {
	dir := domainDir(t)
	wantPins(t, dir, 0)
	first, err := AddPin(dir, testPoint, "one", nil)
	must(t, err)
	if pins := wantPins(t, dir, 1); pins[0] != first || first.Point != "check1" || first.Identity != testPoint.Identity || first.Reason != "one" {
		t.Errorf("got %+v, made %+v", pins, first)
	}
	second, err := AddPin(dir, testPoint, "two", nil)
	must(t, err, RemovePin(dir, first.ID), RemovePin(dir, first.ID))
	if pins := wantPins(t, dir, 1); pins[0] != second {
		t.Errorf("got %+v, want %+v", pins, second)
	}
	RemoveNoPins(dir)
	wantPins(t, dir, 1)
	must(t, RemovePin(dir, second.ID))
	if _, err := os.Lstat(filepath.Join(dir, PinsName)); !os.IsNotExist(err) {
		t.Errorf("the directory of pins: %v", err)
	}
	for _, bad := range []string{"", "../check1/manifest", "a/b"} {
		if RemovePin(dir, bad) == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

// What is no pin is named.
func TestDamagedPins(t *testing.T) {
	dir := domainDir(t)
	pin, err := AddPin(dir, testPoint, "a guest", nil)
	must(t, err)
	in := func(name string) string { return filepath.Join(dir, PinsName, name) }
	must(t, os.WriteFile(in("empty.json"), nil, 0o600), unix.Mkfifo(in("fifo.json"), 0o600), os.Symlink(pin.ID+pinSuffix, in("link.json")),
		os.Mkdir(in("sub"), 0o700), os.Link(in(pin.ID+pinSuffix), in("renamed.json")))
	pins, damaged, err := Pins(dir)
	if want := "empty.json fifo.json link.json renamed.json sub"; err != nil || len(pins) != 1 || pins[0] != pin || strings.Join(damaged, " ") != want {
		t.Errorf("pins %+v, damaged %q, %v; want %s", pins, damaged, err, want)
	}
}

// A pin that was not finished holds nothing, and goes with the next, or with RemoveNoPins.
func TestDeathWhilePinning(t *testing.T) {
	dir := domainDir(t)
	for _, remove := range []func(){
		func() {
			pin, err := AddPin(dir, testPoint, "a guest", nil)
			must(t, err, RemovePin(dir, pin.ID))
		},
		func() { RemoveNoPins(dir) },
	} {
		must(t, os.Mkdir(filepath.Join(dir, PinsName), 0o700), os.WriteFile(filepath.Join(dir, PinsName, pinTemporary), []byte("{"), 0o600))
		wantPins(t, dir, 0)
		remove()
		if _, err := os.Lstat(filepath.Join(dir, PinsName)); !os.IsNotExist(err) {
			t.Errorf("the directory of pins: %v", err)
		}
	}
}

// One guest starts while the last other one ends, which removes the directory.
func TestPinBesideUnpin(t *testing.T) {
	dir := domainDir(t)
	var unpinning sync.WaitGroup
	for range 30 {
		pin, err := AddPin(dir, testPoint, "a guest", nil)
		must(t, err)
		if pins, _, err := Pins(dir); err != nil || !slices.Contains(pins, pin) {
			t.Errorf("not pinned: %+v, %v", pins, err)
		}
		unpinning.Go(func() {
			if err := RemovePin(dir, pin.ID); err != nil {
				t.Error(err)
			}
		})
	}
	unpinning.Wait()
	wantPins(t, dir, 0)
}

// FuzzPin feeds content whose digest is right: what is accepted is that of its name.
func FuzzPin(f *testing.F) {
	data, err := digest.EncodeJSON(Pin{Format: manifest.Format, ID: "0123456789abcdef", Point: "check1", Time: time.Now()})
	must(f, err)
	f.Add(data[:len(data)-digest.TailLength])
	f.Add([]byte(`{"format":1`))
	f.Fuzz(func(t *testing.T, body []byte) {
		parsePin(body, "0123456789abcdef.json")
		pin, err := parsePin(slices.Concat(body, []byte(digest.Tail(body))), "0123456789abcdef.json")
		if err != nil {
			return
		}
		if _, _, err := manifest.ParsePointID(pin.Point); err != nil || pin.ID != "0123456789abcdef" {
			t.Errorf("accepted %+v, %v", pin, err)
		}
	})
}
