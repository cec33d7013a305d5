package hypervisor

import (
	"strings"
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

// What is defined again keeps the passwords that readers do not see.
func TestDefinitionXML(t *testing.T) {
	g := newGuest(t)
	doc, err := g.InactiveXML()
	must(t, err)
	doc = strings.Replace(doc, "</devices>", "<graphics type='vnc' passwd='secret' port='-1' autoport='yes'/></devices>", 1)
	_, err = g.conn.Define(doc, false)
	must(t, err)
	full, err := g.DefinitionXML()
	must(t, err)
	if !strings.Contains(full, "passwd='secret'") {
		t.Errorf("no password in\n%s", full)
	}
	if doc, err = g.InactiveXML(); err != nil || strings.Contains(doc, "secret") {
		t.Errorf("%v: the password is shown:\n%s", err, doc)
	}
}
