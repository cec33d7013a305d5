package define

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/restore"
)

// varStore is the format of variables that are not <nvram>, but <varstore>.
const varStore = "json"

// inDir is the path of a restored extra.
func (d *definer) inDir(e manifest.Extra) string { return filepath.Join(d.Dir, e.File) }

// giveToQEMU makes QEMU's user the owner of the restored files. libvirt does so when the
// domain starts, unless qemu.conf says otherwise (dynamic_ownership). Files that the domain
// starts with get the modes that they had.
func (d *definer) giveToQEMU(restored *restore.Result) error {
	for _, disk := range restored.Disks {
		if err := d.give(disk.Image); err != nil {
			return err
		}
	}
	for _, e := range restored.Extras {
		if err := errors.Join(d.give(e.Restored), os.Chmod(e.Restored, e.Perm())); err != nil {
			return err
		}
	}
	return nil
}
