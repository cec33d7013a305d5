package fakelibvirt

import (
	"errors"
	"fmt"
	"os"
	"slices"
)

// errBusy is what libvirt answers while a job runs.
var errBusy = errors.New("the domain has a backup job")

// Attach adds a new disk that reads as zeros. It has no bitmaps, also where there was one of
// that target before.
func (d *Domain) Attach(target string, size int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.job != nil {
		return errBusy
	}
	if d.disk(target) != nil {
		return fmt.Errorf("target %s already exists", target)
	}
	data, err := d.resized(target, nil, size)
	if err != nil {
		return err
	}
	d.disks = append(d.disks, newDisk(target, data))
	return d.save()
}

// Detach removes a disk, with its image and the bitmaps in it.
func (d *Domain) Detach(target string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	gone := d.disk(target)
	switch {
	case d.job != nil:
		return errBusy
	case gone == nil:
		return fmt.Errorf("no target %s", target)
	}
	d.disks = slices.DeleteFunc(d.disks, func(other *disk) bool { return other == gone })
	if d.dir == "" {
		return nil
	}
	if err := errors.Join(unmap(gone.data), os.Remove(d.file(target))); err != nil {
		return err
	}
	return d.save()
}

// Resize makes a disk larger, by zeros, or smaller. The bitmaps follow, as those of QEMU do:
// what was added is not dirty in them (hbitmap_truncate).
func (d *Domain) Resize(target string, size int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	disk := d.disk(target)
	switch {
	case d.job != nil:
		return errBusy
	case disk == nil:
		return fmt.Errorf("no target %s", target)
	}
	data, err := d.resized(target, disk.data, size)
	if err != nil {
		return err
	}
	disk.data = data
	for _, b := range disk.bitmaps {
		dirty := make([]bool, clusters(len(data)))
		copy(dirty, b.dirty)
		b.dirty = dirty
	}
	return d.save()
}

// DropBitmaps removes all bitmaps of a disk, as does qemu-img bitmap --remove: libvirt's
// records of the checkpoints stay.
func (d *Domain) DropBitmaps(target string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	disk := d.disk(target)
	if disk == nil {
		return fmt.Errorf("no target %s", target)
	}
	clear(disk.bitmaps)
	return d.save()
}

// Targets are those of the disks.
func (d *Domain) Targets() (all []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, disk := range d.disks {
		all = append(all, disk.target)
	}
	return all
}

// Size of a disk in bytes; 0 where there is none of that target.
func (d *Domain) Size(target string) int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if disk := d.disk(target); disk != nil {
		return int64(len(disk.data))
	}
	return 0
}
