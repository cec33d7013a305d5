package hypervisor

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/internal/fail"
)

// A domain whose memory is saved is off, and says so.
func TestManagedSave(t *testing.T) {
	g := newGuest(t)
	want := func(saved bool, why string) {
		t.Helper()
		got, err := g.ManagedSave()
		if off, offErr := g.WhyShutOff(); got != saved || off != why || err != nil || offErr != nil {
			t.Errorf("saved %v, %q, want %v, %q (%v, %v)", got, off, saved, why, err, offErr)
		}
		if doc, err := g.SavedXML(); err != nil || strings.Contains(doc, "<name>"+g.Name()+"</name>") != saved || !saved && doc != "" {
			t.Errorf("the XML that was saved: %q, %v", doc, err)
		}
	}
	want(false, "")
	virsh(t, "managedsave", g.Name())
	want(true, "it was saved")
	virsh(t, "managedsave-remove", g.Name())
	want(false, "it was saved")
}

// The path of a volume is that of its file; a volume or pool that is not there is an error.
func TestVolumePath(t *testing.T) {
	g := newGuest(t)
	virsh(t, "pool-create-as", g.Name(), "dir", "--target", g.dir)
	t.Cleanup(func() { virsh(t, "pool-destroy", g.Name()) })
	path, err := g.VolumePath(g.Name(), "vda.qcow2")
	if want := filepath.Join(g.dir, "vda.qcow2"); path != want || err != nil {
		t.Errorf("got %q, %v, want %q", path, err, want)
	}
	if _, err := g.VolumePath(g.Name(), "absent"); err == nil {
		t.Error("a volume that is not there has a path")
	}
	inactive := g.Name() + "-inactive"
	virsh(t, "pool-define-as", inactive, "dir", "--target", t.TempDir())
	t.Cleanup(func() { virsh(t, "pool-undefine", inactive) })
	if _, err := g.VolumePath(inactive, "vda.qcow2"); err == nil || fail.HintOf(err) != "virsh pool-start "+inactive {
		t.Errorf("a pool that is not started: %v, hint %q", err, fail.HintOf(err))
	}
	if _, err := g.VolumePath("absent", "vda.qcow2"); err == nil {
		t.Error("a pool that is not there has a volume")
	}
}
