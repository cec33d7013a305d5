package instant

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/restore"
	"github.com/virtbackup/virtbackup/restore/define"
	"github.com/virtbackup/virtbackup/xml/adapt"
)

// finish makes the domain what it was but for its images, and ends the server.
func (r *run) finish() error {
	if err := fault.Point("instant: all pulled"); err != nil {
		return err
	}
	if err := r.restorePolicies(); err != nil {
		return err
	}
	return r.forget()
}

// restorePolicies has the guest see I/O errors as it did, from its next start on.
func (r *run) restorePolicies() error {
	doc, err := r.domain.DefinitionXML()
	if err != nil {
		return err
	}
	of := map[string]adapt.Policies{}
	for target, p := range r.pin.Runs.Policies {
		of[target] = p
	}
	changed, err := adapt.WithPolicies(doc, of)
	if err != nil {
		return err
	}
	if changed == doc {
		return nil
	}
	if err := fault.Point("instant: restore policies"); err != nil {
		return err
	}
	_, err = r.host.Define(changed, false)
	return err
}

// forget removes the pin, and with it the server.
func (r *run) forget() error {
	if err := fault.Point("instant: unpin"); err != nil {
		return err
	}
	if err := r.repo.Unpin(r.Domain, r.pin.ID); err != nil {
		return err
	}
	if err := fault.Point("instant: unpinned"); err != nil {
		return err
	}
	return r.server.end()
}

// giveUp undoes the pin and the server of a domain that there is not.
func (r *run) giveUp() error {
	_, err := r.host.DomainByUUID(r.pin.Runs.UUID)
	if err == nil { // it could not be taken away, and needs them
		return fail.WithHint(fmt.Errorf("domain %s is left in %s", r.pin.Runs.Name, r.pin.Runs.Dir), "--abandon takes it away")
	}
	if !errors.Is(err, hypervisor.ErrNoDomain) {
		return err
	}
	return r.forget()
}

// takeAway removes a domain that was defined and did not start.
func (r *run) takeAway(result define.Result) error {
	if result.UUID == "" {
		return nil // define has undone all
	}
	return r.removeDomain()
}

// Resume goes on with what Run has begun, whatever has ended it.
func Resume(ctx context.Context, repo *repository.Repository, host define.Host, request Request) error {
	r := newRun(repo, host, request)
	if err := r.findIn(request.Dir); err != nil {
		return err
	}
	if _, err := r.server.ensure(ctx); err != nil {
		return err
	}
	var err error
	if r.domain, err = host.DomainByUUID(r.pin.Runs.UUID); err != nil {
		return fail.WithHint(err, "it was not defined yet: --abandon removes what there is of it")
	}
	if active, err := r.domain.Active(); err != nil || !active {
		if err = errors.Join(err, r.domain.Start()); err != nil {
			return err
		}
	}
	return r.supervise(ctx)
}

// findIn finds the pin by the directory of the images.
func (r *run) findIn(dir string) error {
	real, err := restore.RealDir(dir)
	if err != nil {
		return err
	}
	found, err := r.find(real)
	if err == nil && !found {
		err = fail.Errorf(fail.NotFound, "virtbackup list shows which points are pinned", "no domain runs from a point of %s in %s", r.Domain, real)
	}
	return err
}

// Abandon takes a domain away that runs from a point, with all that its guest has written.
func Abandon(repo *repository.Repository, host define.Host, request Request) error {
	r := newRun(repo, host, request)
	if err := r.findIn(request.Dir); err != nil {
		return err
	}
	return errors.Join(r.removeDomain(), r.giveUp())
}

// removeDomain powers the domain off, undefines it, and removes its files, unless it has nothing in
// the directory.
func (r *run) removeDomain() error {
	domain, err := r.host.DomainByUUID(r.pin.Runs.UUID)
	if errors.Is(err, hypervisor.ErrNoDomain) {
		return r.removeFiles(nil)
	}
	if err != nil {
		return err
	}
	r.domain = domain
	definition, err := r.definition(domain.InactiveXML)
	if err != nil {
		return err
	}
	var images []string
	for _, d := range definition.Disks {
		if filepath.Dir(d.Source) == r.pin.Runs.Dir {
			images = append(images, d.Source)
		}
	}
	if len(images) == 0 {
		return fmt.Errorf("domain %s (UUID %s) has no image in %s: it is another one", domain.Name(), domain.UUID(), r.pin.Runs.Dir)
	}
	if err := errors.Join(fault.Point("instant: power off"), domain.PowerOff(), domain.Undefine()); err != nil {
		return err
	}
	return r.removeFiles(images)
}

// removeFiles removes images, and the directory if nothing else is in it.
func (r *run) removeFiles(images []string) error {
	var errs []error
	for _, path := range images {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	_ = os.Remove(r.pin.Runs.Dir) // only if it is empty
	return errors.Join(errs...)
}
