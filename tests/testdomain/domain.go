package testdomain

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"libvirt.org/go/libvirt"
)

// Domain is a throwaway domain. It is persistent, runs under TCG, and is
// destroyed and undefined, with its files, when the test ends.
type Domain struct {
	Name  string
	UUID  string
	Dir   string // holds the disks' images; QEMU may write to it
	Disks []Disk
	t     testing.TB
}

// prefix begins every name that this process gives to a domain or directory.
var prefix = fmt.Sprintf("vbtest-%d-", os.Getpid())

var serial atomic.Int64

// NewName returns a name that no other domain has.
func NewName() string {
	return prefix + strconv.FormatInt(serial.Add(1), 10)
}

// TempDir returns a new directory below /var/tmp that any user may enter, so
// that QEMU reaches files in it, and which is on a real file system, not on a
// tmpfs. It is removed when the test ends.
func TempDir(t testing.TB) string {
	t.Helper()
	dir := filepath.Join("/var/tmp", NewName())
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// New defines a domain without an operating system and starts it paused: its
// disks are written by Domain.IO and its relatives alone. It is up within a
// second or two.
func New(t testing.TB, disks ...Disk) *Domain {
	t.Helper()
	d := Define(t, disks...)
	d.Start()
	return d
}

// Define makes the disks and defines the domain of New without starting it.
func Define(t testing.TB, disks ...Disk) *Domain {
	t.Helper()
	return define(t, Identity{}, 64, "<boot dev='hd'/>", "", disks)
}

// Identity is the name and UUID of a domain; "" means a new one.
type Identity struct{ Name, UUID string }

// DefineAs is Define with the name and UUID of a domain that does not exist any more.
func DefineAs(t testing.TB, id Identity, disks ...Disk) *Domain {
	t.Helper()
	return define(t, id, 64, "<boot dev='hd'/>", "", disks)
}

// UEFI is what a domain with UEFI firmware has in <os>; its variables are in vars.fd.
const UEFI = `<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>` +
	`<nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'>@DIR@/vars.fd</nvram>`

// DefineWith is Define with further elements of <os> and <devices>, in which @DIR@ is the
// domain's directory.
func DefineWith(t testing.TB, boot, devices string, disks ...Disk) *Domain {
	t.Helper()
	return define(t, Identity{}, 64, boot, devices, disks)
}

// define makes and defines a domain; boot goes into <os>, devices into <devices>.
func define(t testing.TB, id Identity, memory int, boot, devices string, disks []Disk) *Domain {
	t.Helper()
	startHypervisor(t)
	dir := TempDir(t)
	d := &Domain{Name: cmp.Or(id.Name, filepath.Base(dir)), Dir: dir, Disks: disks, t: t}
	uuid := ""
	if id.UUID != "" {
		uuid = "<uuid>" + id.UUID + "</uuid>"
	}
	for i := range d.Disks {
		d.Disks[i].create(t, dir)
		devices += d.Disks[i].xml()
	}
	devices = strings.ReplaceAll(devices, "@DIR@", dir)
	boot = strings.ReplaceAll(boot, "@DIR@", dir)
	d.define(fmt.Sprintf(`<domain type='qemu'><name>%s</name>%s<memory unit='MiB'>%d</memory><vcpu>1</vcpu>`+
		`<os><type arch='x86_64' machine='pc'>hvm</type>%s</os><features><acpi/></features>`+
		`<on_reboot>destroy</on_reboot><devices>`+
		`<controller type='usb' model='none'/><memballoon model='none'/>%s</devices></domain>`,
		d.Name, uuid, memory, boot, devices))
	return d
}

func (d *Domain) define(xml string) {
	d.t.Helper()
	file := filepath.Join(d.Dir, "domain.xml")
	if err := os.WriteFile(file, []byte(xml), 0o600); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(d.remove)
	Virsh(d.t, "define", file)
	err := onDomain(d.Name, func(domain *libvirt.Domain) (err error) {
		d.UUID, err = domain.GetUUIDString()
		return err
	})
	if err != nil {
		d.t.Fatal(err)
	}
}

// Start starts the domain with its processor paused, from its saved memory if it has such. QEMU 10
// leaves the images of a domain that comes back paused inactive until its processor has run, and
// ends itself when something writes to them before that.
func (d *Domain) Start() {
	d.t.Helper()
	saved := strings.Contains(Virsh(d.t, "dominfo", d.Name), "Managed save:   yes")
	d.start()
	if saved {
		Virsh(d.t, "resume", d.Name)
		Virsh(d.t, "suspend", d.Name)
	}
}

// start tries again right after a start that failed: libvirt 9.0 sees the end of the first QEMU late,
// from a queue, and then ends the QEMU that runs by that time (8 of 72 starts, six domains at once).
func (d *Domain) start() {
	d.t.Helper()
	for range 3 {
		_, err := TryVirsh(d.t, "start", d.Name, "--paused")
		if err == nil {
			return
		}
		if !endedByOther(err.Error()) {
			d.t.Fatal(err)
		}
		time.Sleep(time.Second)
	}
	Virsh(d.t, "start", d.Name, "--paused")
}

// endedByOther tells that QEMU did not fail to start by itself.
func endedByOther(text string) bool {
	return strings.Contains(text, "(libvirtd)") || strings.Contains(text, "domain is no longer running") ||
		strings.HasSuffix(strings.TrimSpace(text), "process exited while connecting to monitor")
}

// Other is a domain that exists already, such as one that was restored: its own test removes
// it. dir is where its files are.
func (d *Domain) Other(name, uuid, dir string) *Domain {
	return &Domain{Name: name, UUID: uuid, Dir: dir, t: d.t}
}

// State is the first word of virsh domstate: running, paused, shut, …
func (d *Domain) State() string {
	d.t.Helper()
	state, err := StateOf(d.Name)
	if err != nil {
		d.t.Fatal(err)
	}
	return state
}

// Destroy ends QEMU and waits until libvirt knows.
func (d *Domain) Destroy() {
	d.t.Helper()
	Virsh(d.t, "destroy", d.Name)
}

// Pid is that of the domain's QEMU.
func (d *Domain) Pid() int {
	d.t.Helper()
	text, err := os.ReadFile("/run/libvirt/qemu/" + d.Name + ".pid")
	if err != nil {
		d.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		d.t.Fatal(err)
	}
	return pid
}

// killTime bounds how long a killed QEMU takes to be gone: on a busy disk it ends once its writes
// have returned.
const killTime = time.Minute

// Kill kills QEMU with SIGKILL, as a crash would end it, and waits until libvirt says that the
// domain is off.
func (d *Domain) Kill() {
	d.t.Helper()
	if err := syscall.Kill(d.Pid(), syscall.SIGKILL); err != nil {
		d.t.Fatal(err)
	}
	for start := time.Now(); time.Since(start) < killTime; time.Sleep(50 * time.Millisecond) {
		if d.State() == "shut" {
			return
		}
	}
	d.t.Fatalf("%s is still %s, %v after its QEMU was killed", d.Name, d.State(), killTime)
}

// remove destroys and undefines the domain, and shows QEMU's log if the test failed.
func (d *Domain) remove() {
	if d.t.Failed() {
		logTail(d.t, logOf(d.Name))
		logTail(d.t, tpmLogOf(d.Name))
		logTail(d.t, filepath.Join(d.Dir, "serial.log"))
	}
	if err := removeDomain(d.Name); err != nil {
		d.t.Error(err)
	}
	// The socket of a run that was killed, and not recovered from, outlives its QEMU.
	files, _ := filepath.Glob(fmt.Sprintf("/var/lib/libvirt/qemu/virtbackup/virtbackup-*-%.8s-*", cmp.Or(d.UUID, "none")))
	for _, file := range files {
		_ = os.Remove(file)
	}
}

// removeDomain removes a domain, whether it runs, is defined, or neither.
func removeDomain(name string) error {
	_, _, _ = command("virsh", "-q", "-c", URI, "destroy", name)
	_, _, err := command("virsh", "-q", "-c", URI, "undefine", name, "--checkpoints-metadata", "--snapshots-metadata", "--nvram")
	RemoveLogs(name)
	if err != nil && strings.Contains(err.Error(), "failed to get domain") {
		return nil
	}
	return err
}

// Disk returns the disk with this target.
func (d *Domain) Disk(target string) Disk {
	d.t.Helper()
	for _, disk := range d.Disks {
		if disk.Target == target {
			return disk
		}
	}
	d.t.Fatalf("%s has no disk %s", d.Name, target)
	return Disk{}
}

// Checkpoints names the domain's checkpoints as libvirt lists them, parents first.
func (d *Domain) Checkpoints() (names []string) {
	d.t.Helper()
	err := onDomain(d.Name, func(domain *libvirt.Domain) error {
		checkpoints, err := domain.ListAllCheckpoints(libvirt.DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL)
		if err != nil {
			return err
		}
		for _, c := range checkpoints {
			name, nameErr := c.GetName()
			names, err = append(names, name), errors.Join(err, nameErr, c.Free())
		}
		return err
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return names
}

// HasJob says whether a backup job runs on the domain.
func (d *Domain) HasJob() bool {
	return onDomain(d.Name, func(domain *libvirt.Domain) error {
		_, err := domain.BackupGetXMLDesc(0)
		return err
	}) == nil
}
