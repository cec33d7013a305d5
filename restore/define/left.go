package define

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/restore"
	"github.com/virtbackup/virtbackup/xml"
)

// isLeft says whether a domain was defined by a restore to the directory that was killed
// before it was complete, and is not in use: the marker in the directory names it, its images
// are there, and it is shut off.
func (d *definer) isLeft(domain *hypervisor.Domain) (bool, error) {
	if restore.Marked(d.Dir) != domain.UUID() {
		return false, nil
	}
	if active, err := domain.Active(); err != nil || active {
		return false, err
	}
	return d.usesDir(domain)
}

// usesDir says whether a domain has an image in the directory.
func (d *definer) usesDir(domain *hypervisor.Domain) (bool, error) {
	doc, err := domain.InactiveXML()
	if err != nil {
		return false, err
	}
	definition, err := xml.ParseDomain(doc)
	if err != nil {
		return false, err
	}
	for _, disk := range definition.Disks {
		if filepath.Dir(disk.Source) == d.Dir {
			return true, nil
		}
	}
	return false, nil
}

// undo undefines what was defined on images in the directory: by this restore, or by a killed
// one, which has left its marker. restore.Run calls it while the directory is this restore's,
// and only if nothing there was changed since. A domain that runs is an error, so that its
// images stay.
func (d *definer) undo() error {
	var errs []error
	uuids := []string{restore.Marked(d.Dir)}
	if d.domain != nil && !slices.Contains(uuids, d.domain.UUID()) {
		uuids = append(uuids, d.domain.UUID())
	}
	for _, uuid := range uuids {
		if uuid != "" {
			errs = append(errs, d.undefine(uuid))
		}
	}
	return errors.Join(errs...)
}

func (d *definer) undefine(uuid string) error {
	domain, err := d.host.DomainByUUID(uuid)
	if errors.Is(err, hypervisor.ErrNoDomain) {
		return nil
	}
	if err != nil {
		return err
	}
	if uses, err := d.usesDir(domain); err != nil || !uses {
		return err
	}
	active, err := domain.Active()
	switch {
	case err != nil:
		return err
	case active:
		return fmt.Errorf("domain %s runs on images in %s", domain.Name(), d.Dir)
	}
	d.Log.Debug(fmt.Sprintf("domain %s is undefined", domain.Name()))
	return errors.Join(domain.Undefine(), d.undoTPM(uuid))
}

// Remove undefines a domain that Run has defined, which is shut off, and removes the state of its TPM
// if that is its own: another domain than the one that the point is of has a state of its own.
func Remove(domain *hypervisor.Domain, another bool) error {
	d := &definer{tpmDir: swtpmDir}
	if err := domain.Undefine(); err != nil || !another {
		return err
	}
	return d.undoTPM(domain.UUID())
}
