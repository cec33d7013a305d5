package keep

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtbackup/virtbackup/internal/filelock"
)

// A pin has one process at work; what is gone, or leads elsewhere, has none.
func TestHoldPin(t *testing.T) {
	dir := domainDir(t)
	pin, err := AddPin(dir, testPoint, "runs", &Runs{Name: "vm1-new", Dir: "/srv/vm1", Files: []string{"vda.qcow2"},
		Policies: map[string]map[string]string{"vda": {"error_policy": "report"}}})
	must(t, err)
	if pins := wantPins(t, dir, 1); pins[0].Runs == nil || pins[0].Runs.Name != "vm1-new" || pins[0].Runs.Policies["vda"]["error_policy"] != "report" {
		t.Errorf("read %+v", pins[0].Runs)
	}
	f, err := HoldPin(dir, pin.ID)
	must(t, err)
	if _, err := HoldPin(dir, pin.ID); !errors.Is(err, filelock.ErrHeld) {
		t.Errorf("held twice: %v", err)
	}
	must(t, filelock.Close(f))
	f, err = HoldPin(dir, pin.ID)
	must(t, err)
	must(t, RemovePin(dir, pin.ID), filelock.Close(f))
	for _, id := range []string{pin.ID, "../readers", ""} {
		if _, err := HoldPin(dir, id); err == nil {
			t.Errorf("pin %q is held", id)
		}
	}
	must(t, os.Mkdir(filepath.Join(dir, PinsName), 0o700), os.Symlink("/etc/hostname", filepath.Join(dir, PinsName, "aaaa.json")))
	if _, err := HoldPin(dir, "aaaa"); err == nil {
		t.Error("a symbolic link is held")
	}
}
