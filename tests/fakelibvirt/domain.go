package fakelibvirt

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/hypervisor"
)

// cluster is the unit of disks and bitmaps in bytes.
const cluster = 64 << 10

// Agent is what the guest agent does.
type Agent int

// What the guest agent does.
const (
	AgentAnswers Agent = iota
	AgentMissing       // libvirt says at once that there is none
	AgentSilent        // it does not answer, and freezes nothing
	AgentLate          // it does not answer in time, and freezes the guest all the same
)

// Domain is a domain in memory. Its exported fields are set by tests, before use.
type Domain struct {
	Agent Agent
	// ScratchLimit is how many bytes the scratch files of a job may take: behind that a
	// write of the guest fails and QEMU pauses the guest. 0 is no limit.
	ScratchLimit int64
	// NoBitmaps are the targets of disks that QEMU refuses new bitmaps for.
	NoBitmaps []string
	// OtherJob and OtherBlockJob are jobs of others.
	OtherJob      string
	OtherBlockJob hypervisor.BlockJob
	// LateBegin makes BackupBegin fail at once, as for a program that is killed, and begin the
	// job when somebody awaits it.
	LateBegin bool
	// Hook, if set, is called before each call with the name of the method, and its error
	// returned instead: libvirt has not done it. HookAfter is called after something was
	// done, and must not call methods of the domain.
	Hook, HookAfter func(method string) error

	mu          sync.Mutex
	name, uuid  string
	state       hypervisor.State
	runs        uint // how often it was started
	frozen      bool
	full        []string // targets of writes that found no space
	disks       []*disk
	checkpoints []*record
	job         *job
	late        func() error // the begin of LateBegin
	ending      []jobDisk    // of a job that libvirt still takes down
	complaints  []string
	dir         string // of a domain that was loaded
}

var _ guest.Domain = (*Domain)(nil)

// disk is one disk, and the bitmaps that its image has.
type disk struct {
	target  string
	data    []byte
	bitmaps map[string]*bitmap
}

func newDisk(target string, data []byte) *disk {
	return &disk{target: target, data: data, bitmaps: map[string]*bitmap{}}
}

// clusters is how many a disk of that many bytes has; the last one may be cut short.
func clusters(size int) int { return (size + cluster - 1) / cluster }

// clusterAt is the cluster at an offset, up to the end of the disk.
func clusterAt(data []byte, at int64) []byte {
	return data[at:min(at+cluster, int64(len(data)))]
}

// bitmap is a persistent dirty bitmap.
type bitmap struct {
	dirty  []bool // by cluster
	stored bool   // the image has it: QEMU writes it there when it ends in order
	broken bool   // the image has it as in use: QEMU has not ended in order
}

func (b *bitmap) size() (n int64) {
	for _, dirty := range b.dirty {
		if dirty {
			n += cluster
		}
	}
	return n
}

// call is what every method begins with.
func (d *Domain) call(method string) error {
	if d.Hook == nil {
		return nil
	}
	return d.Hook(method)
}

// done is what every method that changes something ends with.
func (d *Domain) done(method string) error {
	if err := d.save(); err != nil {
		return err
	}
	if d.HookAfter == nil {
		return nil
	}
	return d.HookAfter(method)
}

func (d *Domain) disk(target string) *disk {
	if i := slices.IndexFunc(d.disks, func(disk *disk) bool { return disk.target == target }); i >= 0 {
		return d.disks[i]
	}
	return nil
}

// Name is the domain's name.
func (d *Domain) Name() string { return d.name }

// UUID is the domain's UUID.
func (d *Domain) UUID() string { return d.uuid }

// XML is a document with what package xml reads.
func (d *Domain) XML() (string, error) {
	if err := d.call("XML"); err != nil {
		return "", err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var disks strings.Builder
	for i, disk := range d.disks {
		fmt.Fprintf(&disks, "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/fake/%s/%s.qcow2' index='%d'/><target dev='%s' bus='virtio'/></disk>",
			d.name, disk.target, i+1, disk.target)
	}
	return fmt.Sprintf("<domain type='qemu'><name>%s</name><uuid>%s</uuid><devices>%s</devices></domain>", d.name, d.uuid, disks.String()), nil
}

// InactiveXML is the same.
func (d *Domain) InactiveXML() (string, error) { return d.XML() }

// Persistent is true.
func (d *Domain) Persistent() (bool, error) { return true, d.call("Persistent") }

// OldImages is none.
func (d *Domain) OldImages() ([]string, error) { return nil, d.call("OldImages") }

// Allocation counts clusters that are not all zeros.
func (d *Domain) Allocation(target string) (capacity, allocation int64, err error) {
	if err := d.call("Allocation"); err != nil {
		return 0, 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	disk := d.disk(target)
	if disk == nil {
		return 0, 0, failure(nil, "invalid path %s not assigned to domain", target)
	}
	for at := int64(0); at < int64(len(disk.data)); at += cluster {
		if data := clusterAt(disk.data, at); !isZero(data) {
			allocation += int64(len(data))
		}
	}
	return int64(len(disk.data)), allocation, nil
}

func isZero(p []byte) bool { return bytes.Count(p, []byte{0}) == len(p) }

// Active tells whether the domain runs.
func (d *Domain) Active() (bool, error) {
	state, err := d.State()
	return state != hypervisor.ShutOff, err
}

// State is what the domain does.
func (d *Domain) State() (hypervisor.State, error) {
	if err := d.call("State"); err != nil {
		return hypervisor.ShutOff, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state, nil
}

// RunID counts the starts of the domain; 0 while it is off.
func (d *Domain) RunID() (uint, error) {
	if err := d.call("RunID"); err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state == hypervisor.ShutOff {
		return 0, nil
	}
	return d.runs, nil
}

// WhyShutOff says that the guest shut down, if it is off.
func (d *Domain) WhyShutOff() (string, error) {
	state, err := d.State()
	if err != nil || state != hypervisor.ShutOff {
		return "", err
	}
	return "the guest shut down", nil
}

// ManagedSave is false.
func (d *Domain) ManagedSave() (bool, error) { return false, d.call("ManagedSave") }

// SavedXML is "".
func (d *Domain) SavedXML() (string, error) { return "", d.call("SavedXML") }

// VolumePath knows no volumes.
func (d *Domain) VolumePath(pool, volume string) (string, error) {
	return "", fmt.Errorf("no volume %s in pool %s", volume, pool)
}

// Resume lets a paused guest go on.
func (d *Domain) Resume() error {
	if err := d.call("Resume"); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state == hypervisor.ShutOff {
		return d.notRunning()
	}
	d.state, d.full = hypervisor.Running, nil
	return d.save()
}

func (d *Domain) notRunning() error {
	return failure(hypervisor.ErrNotRunning, "Requested operation is not valid: domain is not running")
}

// OutOfSpace names the disks of which a write found no space.
func (d *Domain) OutOfSpace() ([]string, error) {
	if err := d.call("OutOfSpace"); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.full), nil
}

// Freeze does what Agent says.
func (d *Domain) Freeze(time.Duration) (int, error) {
	if err := d.call("Freeze"); err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.state == hypervisor.ShutOff:
		return 0, d.notRunning()
	case d.state != hypervisor.Running:
		return 0, d.noAgent()
	case d.Agent == AgentMissing, d.Agent == AgentSilent:
		return 0, d.noAgent()
	case d.frozen:
		return 0, failure(hypervisor.ErrAgent, "The command guest-fsfreeze-freeze has been disabled for this instance")
	}
	d.frozen = true
	if d.Agent == AgentLate {
		return 0, fmt.Errorf("%w: %w", d.noAgent(), hypervisor.ErrFreezing)
	}
	return 2, d.done("Freeze")
}

func (d *Domain) noAgent() error {
	return failure(hypervisor.ErrAgent, "Guest agent is not responding: QEMU guest agent is not connected")
}

// Thaw lets the guest's file systems go on.
func (d *Domain) Thaw(time.Duration) (int, error) {
	if err := d.call("Thaw"); err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.state == hypervisor.ShutOff:
		return 0, d.notRunning()
	case d.state != hypervisor.Running, d.Agent == AgentMissing, d.Agent == AgentSilent:
		return 0, d.noAgent()
	case !d.frozen:
		return 0, nil
	}
	d.frozen = false
	return 2, d.save()
}
