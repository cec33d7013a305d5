package fakelibvirt

import (
	"context"
	"os"
)

// Autostart is false.
func (d *Domain) Autostart() (bool, error) { return false, d.call("Autostart") }

// PlannedNVRAM is none.
func (d *Domain) PlannedNVRAM() (path, format string, err error) {
	return "", "", d.call("PlannedNVRAM")
}

// CopyNVRAM fails: there is none.
func (d *Domain) CopyNVRAM(context.Context, *os.File) error {
	if err := d.call("CopyNVRAM"); err != nil {
		return err
	}
	return failure(nil, "QEMU has no node of that kind")
}
