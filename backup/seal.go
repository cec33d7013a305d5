package backup

import (
	"context"

	"github.com/virtbackup/virtbackup/manifest"
)

// seal makes the point durable and lists it.
func (r *run) seal(ctx context.Context) error {
	if err := r.fillManifest(); err != nil {
		return err
	}
	if err := r.writeDocuments(); err != nil {
		return err
	}
	if err := r.partial.Seal(r.point); err != nil {
		return err
	}
	r.sealed = true
	// As others will read it: with what the seal has filled in.
	if sealed, err := r.repo.Point(r.Domain, r.plan.ID); err == nil {
		r.point = sealed
	}
	return nil
}

// afterSeal lets the source finish. The point counts whatever comes of that.
func (r *run) afterSeal(ctx context.Context) error {
	if err := r.source.Sealed(ctx); err != nil {
		r.warn("%v", err)
	}
	return nil
}

// fillManifest completes what begin and copyDisks have filled in.
func (r *run) fillManifest() error {
	libvirt, qemu, err := r.Host.Versions()
	if err != nil {
		return err
	}
	m := &r.point
	m.ID, m.Kind, m.Checkpoint = r.plan.ID, r.plan.Kind, r.plan.Checkpoint
	if r.plan.Base != nil {
		m.Parent = r.plan.Base.ID
	}
	m.Domain, m.DomainUUID = r.Domain, r.domain.Domain.UUID()
	m.Finished = r.now()
	m.Versions = manifest.Versions{Virtbackup: r.Version, Libvirt: libvirt, QEMU: qemu}
	if odd := manifest.OddClock(*m, r.points, m.Finished); odd != "" {
		r.warn("point %s: %s (--at TIME uses it, --at latest uses the number)", m.ID, odd)
	}
	m.Gone, m.LeftOut, m.Warnings = r.plan.Gone, r.plan.LeftOut, r.result.Warnings
	return nil
}

// writeDocuments stores the domain's XML, to define the domain again, and the
// checkpoint's, to redefine the checkpoint if libvirt loses it.
func (r *run) writeDocuments() error {
	doc, err := r.domainXML()
	if err != nil {
		return err
	}
	if err := r.partial.WriteFile("domain.xml", []byte(doc)); err != nil {
		return err
	}
	if r.plan.Checkpoint == "" {
		return nil
	}
	if doc, err = r.source.CheckpointXML(); err != nil {
		return err
	}
	return r.partial.WriteFile("checkpoint.xml", []byte(doc))
}

// domainXML is the persistent configuration, which virsh define accepts, or, of a
// transient domain, the running one.
func (r *run) domainXML() (string, error) {
	persistent, err := r.domain.Domain.Persistent()
	if err != nil {
		return "", err
	}
	if persistent {
		return r.domain.Domain.InactiveXML()
	}
	return r.domain.Domain.XML()
}
