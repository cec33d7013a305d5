package fakelibvirt

import (
	"bytes"
	"slices"

	"github.com/virtbackup/virtbackup/hypervisor"
)

// What follows is done to a domain by its guest and by those who run it.

// Write is a write of the guest: p at an offset of a disk. It is false where the guest
// cannot write: its file systems are frozen, it is paused, or the write finds no space and
// pauses it.
func (d *Domain) Write(target string, offset int64, p []byte) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	disk := d.disk(target)
	if d.state != hypervisor.Running || d.frozen || disk == nil {
		return false
	}
	first, last := offset/cluster, (offset+int64(len(p))-1)/cluster
	if d.job != nil && !d.job.save(disk, first, last, d.ScratchLimit) {
		d.state, d.full = hypervisor.PausedForIO, append(d.full, target)
		return false
	}
	for _, b := range disk.bitmaps {
		for i := first; !b.broken && i <= last; i++ {
			b.dirty[i] = true
		}
	}
	copy(disk.data[offset:], p)
	return true
}

// RunOutOfSpace pauses the guest as a write does that finds no space in a scratch file: one
// that a freeze of the file systems does not hold back, as of swap.
func (d *Domain) RunOutOfSpace(target string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state, d.full = hypervisor.PausedForIO, append(d.full, target)
}

// Content is what a disk holds.
func (d *Domain) Content(target string) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return bytes.Clone(d.disk(target).data)
}

// Frozen tells whether the guest's file systems are frozen.
func (d *Domain) Frozen() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.frozen
}

// Bitmaps names those that the image of a disk has, broken ones too, sorted.
func (d *Domain) Bitmaps(target string) (names []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name := range d.disk(target).bitmaps {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Names are those of the checkpoints that libvirt lists, oldest first.
func (d *Domain) Names() (names []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.checkpoints {
		names = append(names, c.name)
	}
	return names
}

// ShutDown ends QEMU in order: bitmaps stay good.
func (d *Domain) ShutDown() { d.stop(false) }

// Kill ends QEMU at once. Bitmaps that it has loaded from an image are marked as in use
// there, and broken; those that it has made since its start are lost.
func (d *Domain) Kill() { d.stop(true) }

func (d *Domain) stop(killed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state, d.frozen, d.full = hypervisor.ShutOff, false, nil
	d.job = nil
	for _, disk := range d.disks {
		for name, b := range disk.bitmaps {
			switch {
			case !killed:
				b.stored = true
			case b.stored:
				b.broken = true
			default:
				delete(disk.bitmaps, name)
			}
		}
	}
}

// Start starts the domain again.
func (d *Domain) Start() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state = hypervisor.Running
	d.runs++
}

// Pause pauses the guest, as a person does.
func (d *Domain) Pause() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state = hypervisor.Paused
}

// DropRecords makes libvirt forget its checkpoints, as undefining the domain and defining it
// again does: the bitmaps stay in the images.
func (d *Domain) DropRecords() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.checkpoints = nil
}
