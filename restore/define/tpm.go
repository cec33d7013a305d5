package define

import (
	"context"
	"os"
	"path/filepath"

	"github.com/virtbackup/virtbackup/manifest"
)

// swtpmDir is where libvirt keeps the state of emulated TPMs (swtpmStorageDir in qemu_conf.c):
// in UUID/tpm2 or UUID/tpm1.2.
const swtpmDir = "/var/lib/libvirt/swtpm"

// tpm is the extra with the state of the TPM, if there is one.
func (d *definer) tpm() (manifest.Extra, bool) {
	if found := d.point.ExtrasOf(manifest.ExtraTPM); len(found) > 0 {
		return found[0], true
	}
	return manifest.Extra{}, false
}

// putTPM puts the state of the TPM where libvirt keeps it.
func (d *definer) putTPM(context.Context) error {
	if _, has := d.tpm(); has {
		d.warn("the state of the TPM is in the point, and is not put back by this version")
	}
	return nil
}

// undoTPM removes the state that was put back for a domain with a UUID of its own. The state
// of the domain that the point is of stays.
func (d *definer) undoTPM(uuid string) error {
	if uuid == d.point.DomainUUID {
		return nil
	}
	return os.RemoveAll(filepath.Join(swtpmDir, uuid))
}
