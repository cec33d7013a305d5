package hypervisor

import (
	"testing"
)

// What puts a domain out of the way of a restore in place: off, without a managed save, not
// started with the host.
func TestPower(t *testing.T) {
	g := newGuest(t)
	for _, on := range []bool{true, false} {
		must(t, g.SetAutostart(on))
		if got, err := g.Autostart(); err != nil || got != on {
			t.Errorf("autostart %v, %v; want %v", got, err, on)
		}
	}
	must(t, g.Resume())
	must(t, g.ShutDown()) // nothing is there that would listen
	if saved, err := g.ManagedSave(); err != nil || saved {
		t.Errorf("saved %v, %v", saved, err)
	}
	must(t, g.RemoveManagedSave()) // there is none
	virsh(t, "managedsave", g.Name())
	if saved, err := g.ManagedSave(); err != nil || !saved {
		t.Errorf("saved %v, %v; it was", saved, err)
	}
	wantErr(t, "shut down a domain that is off", g.ShutDown(), ErrNotRunning, "")
	must(t, g.RemoveManagedSave())
	if saved, err := g.ManagedSave(); err != nil || saved {
		t.Errorf("saved %v, %v; it was discarded", saved, err)
	}
}
