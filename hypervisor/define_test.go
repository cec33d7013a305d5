package hypervisor

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// newDefinition is the XML of a domain without disks, and a function that looks it up.
func newDefinition(t *testing.T, conn *Conn) (doc, name string) {
	t.Helper()
	name = fmt.Sprintf("vbtest-%d-define", os.Getpid())
	t.Cleanup(func() {
		if d, err := conn.Domain(name); err == nil {
			virsh(t, "undefine", name)
			t.Errorf("domain %s is left", d.Name())
		}
	})
	return fmt.Sprintf(`<domain type='qemu'><name>%s</name><memory unit='MiB'>32</memory><os><type arch='x86_64'>hvm</type></os></domain>`, name), name
}

func TestDefineAndUndefine(t *testing.T) {
	conn := connect(t)
	doc, name := newDefinition(t, conn)
	d, err := conn.Define(doc, true)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Undefine()
	if d.Name() != name || len(d.UUID()) != 36 {
		t.Errorf("defined %s %s", d.Name(), d.UUID())
	}
	for _, on := range []bool{true, false} {
		if err := d.SetAutostart(on); err != nil {
			t.Fatal(err)
		}
		if info := virsh(t, "dominfo", name); strings.Contains(info, "Autostart:      enable") != on {
			t.Errorf("autostart %v: %s", on, info)
		}
	}
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	if active, err := d.Active(); err != nil || !active {
		t.Errorf("started: active %v, %v", active, err)
	}
	if err := d.Start(); err == nil {
		t.Error("started twice")
	}
	virsh(t, "managedsave", name)
	for range 2 { // the second time it is not there
		if err := d.Undefine(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := conn.Domain(name); !errors.Is(err, ErrNoDomain) {
		t.Errorf("undefined: %v", err)
	}
}

func TestDefineRefused(t *testing.T) {
	conn := connect(t)
	doc, _ := newDefinition(t, conn)
	odd := strings.Replace(doc, "<os>", "<odd/><os>", 1)
	if d, err := conn.Define(odd, true); !errors.Is(err, ErrSchema) {
		t.Errorf("an element that the schema does not have: %v %v", d, err)
	}
	if d, err := conn.Define("<domain/>", false); err == nil || errors.Is(err, ErrSchema) {
		t.Errorf("a domain without anything: %v %v", d, err)
	}
	d, err := conn.Define(odd, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Undefine(); err != nil {
		t.Error(err)
	}
}

func TestAbilities(t *testing.T) {
	conn := connect(t)
	caps, err := conn.Capabilities()
	if err != nil || !strings.Contains(caps, "<capabilities>") {
		t.Errorf("capabilities: %v %.100s", err, caps)
	}
	doc, err := conn.DomainCapabilities("", "x86_64", "pc", "qemu")
	if err != nil || !strings.Contains(doc, "<domainCapabilities>") {
		t.Errorf("capabilities of a domain: %v %.100s", err, doc)
	}
	for what, ask := range map[string][4]string{
		"machine":  {"", "x86_64", "pc-q35-99.9", "qemu"},
		"emulator": {"/usr/bin/none", "x86_64", "pc", "qemu"},
		"arch":     {"", "none", "", "qemu"},
	} {
		if doc, err := conn.DomainCapabilities(ask[0], ask[1], ask[2], ask[3]); err == nil {
			t.Errorf("an unknown %s can have %.100s", what, doc)
		} else {
			t.Log(err)
		}
	}
}

func TestTryStart(t *testing.T) {
	conn := connect(t)
	doc, _ := newDefinition(t, conn)
	if err := conn.TryStart(strings.Replace(doc, "</domain>", "<devices><disk type='file'><source file='/none'/><target dev='vda'/></disk></devices></domain>", 1)); err != nil {
		t.Error(err)
	}
	for what, unsupported := range map[string]bool{
		"<launchSecurity type='sev'><policy>0x0003</policy></launchSecurity>": true,
		"<devices><disk type='network'><source protocol='iscsi' name='a/1'><host name='h'/><auth username='u'><secret type='iscsi' usage='vbtest-none'/></auth></source><target dev='vda'/></disk></devices>": false,
	} {
		if err := conn.TryStart(strings.Replace(doc, "</domain>", what+"</domain>", 1)); err == nil || errors.Is(err, ErrUnsupported) != unsupported {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestCompareCPU(t *testing.T) {
	conn := connect(t)
	if _, err := conn.DomainCapabilities("", "x86_64", "pc", "kvm"); err != nil {
		t.Log(err)
		return
	}
	runs, missing, err := conn.CompareCPU("", "x86_64", "pc", "<cpu><arch>x86_64</arch><model>pentium</model></cpu>")
	if err != nil || !runs || missing != "" {
		t.Errorf("pentium: %v %q %v", runs, missing, err)
	}
	runs, missing, err = conn.CompareCPU("", "x86_64", "pc", "<cpu match='exact'><model>pentium</model><feature policy='require' name='ia64'/></cpu>")
	if err != nil || runs {
		t.Errorf("a feature that no host has: %v %q %v", runs, missing, err)
	}
	t.Log(missing)
}

func TestPresence(t *testing.T) {
	conn := connect(t)
	name := fmt.Sprintf("vbtest-%d", os.Getpid())
	dir := t.TempDir()
	expectNetwork := func(want Presence) {
		t.Helper()
		if got, err := conn.Network(name); got != want || err != nil {
			t.Errorf("network: %v %v, want %v", got, err, want)
		}
	}
	expectVolume := func(want Presence, volume bool) {
		t.Helper()
		if got, has, err := conn.Volume(name, "v"); got != want || has != volume || err != nil {
			t.Errorf("pool: %v, volume %v, %v; want %v, %v", got, has, err, want, volume)
		}
	}
	expectNetwork(Absent)
	expectVolume(Absent, false)
	file := dir + "/network.xml"
	if err := os.WriteFile(file, []byte("<network><name>"+name+"</name><forward mode='bridge'/><bridge name='none0'/></network>"), 0o600); err != nil {
		t.Fatal(err)
	}
	virsh(t, "net-define", file)
	defer virsh(t, "net-undefine", name)
	expectNetwork(Inactive)
	virsh(t, "net-start", name)
	defer virsh(t, "net-destroy", name)
	expectNetwork(Active)
	virsh(t, "pool-define-as", name, "dir", "--target", dir)
	defer virsh(t, "pool-undefine", name)
	expectVolume(Inactive, false)
	virsh(t, "pool-start", name)
	defer virsh(t, "pool-destroy", name)
	expectVolume(Active, false)
	virsh(t, "vol-create-as", name, "v", "1M")
	expectVolume(Active, true)
}
