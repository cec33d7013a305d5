package testdomain

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// realBootTime is how long a real guest may take to boot. Under TCG it takes half a minute on a
// processor of its own, and has taken 200 s on two that 25 processes shared.
const realBootTime = 8 * time.Minute

// LedgerSocket is the socket, in the domain's directory, on which the ledger of a real guest
// reports.
const LedgerSocket = "ledger.sock"

// DefineRealGuest defines the guest of scripts/realguest.sh: Debian with systemd on vda, and
// PostgreSQL's data on vdb. Boot starts it. It takes minutes to make where it is not there yet.
func DefineRealGuest(t testing.TB) *Domain {
	t.Helper()
	startHypervisor(t)
	files := realGuestFiles(t)
	d := define(t, Identity{}, 512, `<kernel>@DIR@/vmlinuz</kernel><initrd>@DIR@/initrd</initrd>`+
		`<cmdline>root=/dev/vda ro console=ttyS0 no_timer_check panic=-1</cmdline>`,
		`<serial type='file'><source path='@DIR@/serial.log' append='on'/></serial>`+
			`<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>`+
			`<channel type='unix'><source mode='bind' path='@DIR@/`+LedgerSocket+`'/>`+
			`<target type='virtio' name='org.virtbackup.ledger'/></channel>`+
			`<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>`,
		[]Disk{{Target: "vda", Source: "@DIR@/root.qcow2"}, {Target: "vdb", Source: "@DIR@/data.qcow2"}})
	for i := range d.Disks {
		d.Disks[i].Source = strings.ReplaceAll(d.Disks[i].Source, "@DIR@", d.Dir)
	}
	for _, name := range []string{"vmlinuz", "initrd", "root.qcow2", "data.qcow2"} {
		Tool(t, "cp", "--reflink=auto", filepath.Join(files, name), d.Dir)
	}
	return d
}

// realGuestFiles is the directory with the files of the real guest.
func realGuestFiles(t testing.TB) string {
	t.Helper()
	start := time.Now()
	out, stderr, err := commandWithin(10*time.Minute, filepath.Join(Root(t), "scripts/realguest.sh"))
	if err != nil {
		t.Fatalf("scripts/realguest.sh: %v", err)
	}
	if stderr != "" {
		t.Logf("%s (%s)", stderr, time.Since(start).Round(time.Second))
	}
	return strings.TrimSpace(out)
}

// Boot starts a real guest, and waits until it is up.
func (d *Domain) Boot() {
	d.t.Helper()
	Virsh(d.t, "start", d.Name)
	d.AwaitSystem()
}

// AwaitSystem waits until systemd has started everything that a real guest starts. A service
// that has failed ends the test.
func (d *Domain) AwaitSystem() {
	d.t.Helper()
	const ask = "systemctl is-active multi-user.target; systemctl is-system-running; systemctl --failed --quiet --plain; true"
	state := "silent"
	for start := time.Now(); time.Since(start) < realBootTime; time.Sleep(time.Second) {
		if _, err := d.agent(`{"execute":"guest-ping"}`, 5); err != nil {
			continue
		}
		state = strings.Join(strings.Fields(d.Exec(ask)), " ")
		if state == "active running" {
			return
		}
		if strings.Contains(state, "degraded") || strings.Contains(state, "maintenance") {
			break
		}
	}
	d.t.Fatalf("the guest %s is not up: %s", d.Name, state)
}

// Adopt returns a domain that is yet to be defined by what is tested. Its files will be in dir, its
// serial log is serial.log there. It is removed when the test ends.
func Adopt(t testing.TB, name, dir string, disks ...Disk) *Domain {
	t.Helper()
	d := &Domain{Name: name, Dir: dir, Disks: disks, t: t}
	t.Cleanup(d.remove)
	return d
}
