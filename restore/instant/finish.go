package instant

import (
	"errors"
	"fmt"
	"os"

	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/xml/adapt"
)

// finish makes the domain what it was but for its images, and ends the server.
func (r *run) finish() error {
	if err := fault.Point("instant: all pulled"); err != nil {
		return err
	}
	if err := r.standing(); err != nil {
		return err
	}
	for _, path := range r.images() {
		if err := syncFile(path); err != nil && !errors.Is(err, os.ErrNotExist) && !isNoImage(err) {
			return err
		}
	}
	if err := errors.Join(r.restorePolicies(), r.autostart()); err != nil {
		return err
	}
	return r.forget()
}

// autostart has libvirt start the domain with the host, as it did when the point was made. Not before its
// images stand alone: after a power cut they may lack what QEMU has pulled last.
func (r *run) autostart() error {
	m, err := r.repo.Point(r.Domain, r.pin.Point)
	if err != nil { // the domain is complete without it
		r.Log.Warn(fmt.Sprintf("whether domain %s is to start with the host is not known: %v", r.domain.Name(), err))
		return nil
	}
	if !m.Autostart || r.pin.Runs.Name != r.Domain {
		return nil
	}
	if domain, err := r.findDomain(); err != nil || domain == nil { // another one, or moved by a person, who decides
		return err
	}
	if err := fault.Point("instant: autostart"); err != nil {
		return err
	}
	r.starts = true
	return r.domain.SetAutostart(true)
}

// restorePolicies has the guest see I/O errors as it did, from its next start on. What somebody has
// changed meanwhile stays.
func (r *run) restorePolicies() error {
	doc, err := r.domain.DefinitionXML()
	if err != nil {
		return err
	}
	now, err := adapt.PoliciesOf(doc)
	if err != nil {
		return err
	}
	back := map[string]adapt.Policies{}
	for target, p := range r.pin.Runs.Policies {
		if now[target].Stop() {
			back[target] = p
		}
	}
	changed, err := adapt.WithPolicies(doc, back)
	if err != nil || changed == doc {
		return err
	}
	if err := fault.Point("instant: restore policies"); err != nil {
		return err
	}
	_, err = r.host.Define(changed, false)
	return err
}

// forget removes the pin, and with it the server. Its log goes first, which nobody would find
// afterwards.
func (r *run) forget() error {
	if err := fault.Point("instant: unpin"); err != nil {
		return err
	}
	if err := os.Remove(r.server.log()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	// Without the pin nobody would find the socket of a server that was killed. One that listens removes its.
	if err := r.server.removeDead(); err != nil {
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
