package define

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/virtbackup/virtbackup/guest/extras"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/pointfile"
	"github.com/virtbackup/virtbackup/restore"
)

// swtpmDir is where libvirt keeps the state of emulated TPMs (swtpmStorageDir in qemu_conf.c),
// and reports it nowhere: in UUID/tpm2 or UUID/tpm1.2. It makes itself the owner of what is
// there when the domain starts (qemuTPMEmulatorCreateStorage).
const swtpmDir = "/var/lib/libvirt/swtpm"

// tpm is the extra with the state of the TPM, if the point has one that libvirt keeps.
func (d *definer) tpm() (manifest.Extra, bool) {
	i := slices.IndexFunc(d.point.Extras, isTPM)
	if i < 0 {
		return manifest.Extra{}, false
	}
	return d.point.Extras[i], true
}

// isTPM says whether an extra is the state of a TPM that libvirt keeps; it keeps no other
// form of it.
func isTPM(e manifest.Extra) bool { return e.Kind == manifest.ExtraTPM && e.Format == "tar" }

// tpmOf is the directory with the state of a domain's TPM.
func (d *definer) tpmOf(uuid string) string { return filepath.Join(d.tpmDir, uuid) }

// putTPM puts the state of the TPM where libvirt keeps it, and no longer beside the images. A
// state that is there, of the domain that the point is of, gets another name.
func (d *definer) putTPM(ctx context.Context, restored *restore.Result) error {
	e, has := d.tpm()
	if !has || !slices.ContainsFunc(restored.Extras, func(r restore.Extra) bool { return isTPM(r.Extra) }) { // damaged, which is said
		return nil
	}
	if err := fault.Point("define: put TPM"); err != nil {
		return err
	}
	var archive bytes.Buffer // some 10 KiB
	if err := pointfile.CopyTo(ctx, d.repo.PointDir(d.Domain, d.point.ID), d.point, e.File, &archive); err != nil {
		return fmt.Errorf("restore the state of the TPM: %w", err)
	}
	dir := d.tpmOf(d.adapted.UUID)
	if err := d.setAside(dir); err != nil {
		return err
	}
	d.tpmPut = true
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return err
	}
	state := filepath.Join(dir, stateName(e))
	if err := os.Mkdir(state, 0o700); err != nil {
		return err
	}
	if _, err := extras.Unpack(&archive, state); err != nil {
		return err
	}
	note := "the TPM has its state as of the point, in " + dir
	if d.aside != "" {
		note += "; the one that was there is in " + d.aside
	}
	d.result.Changes = append(d.result.Changes, note)
	restored.Extras = slices.DeleteFunc(restored.Extras, func(r restore.Extra) bool { return isTPM(r.Extra) })
	return errors.Join(localfile.SyncDir(dir), localfile.SyncDir(d.tpmDir), os.Remove(d.inDir(e)))
}

// stateName is the directory of the state below that of the UUID: by the version of the TPM,
// which the place of the state tells, except where the domain's XML chose it. Version 1.2 is
// of before 2014.
func stateName(e manifest.Extra) string {
	const old = "tpm1.2"
	if filepath.Base(e.Path) == old {
		return old
	}
	return "tpm2"
}

// setAside renames a state that is there already.
func (d *definer) setAside(dir string) error {
	aside := fmt.Sprintf("%s.before-%s", dir, d.now().UTC().Format("20060102-150405"))
	err := localfile.RenameExclusive(dir, aside)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		d.aside = aside
	}
	return err
}

// undoTPM removes the state that was put back for a domain: by this restore, or by a killed
// one for a domain with a UUID of its own. Of the domain that the point is of, what a killed
// one has put stays, to be set aside: whose it is cannot be told.
func (d *definer) undoTPM(uuid string) error {
	if uuid == d.point.DomainUUID && !d.tpmPut {
		return nil
	}
	if err := os.RemoveAll(d.tpmOf(uuid)); err != nil || d.aside == "" {
		return err
	}
	return localfile.RenameExclusive(d.aside, d.tpmOf(uuid))
}
