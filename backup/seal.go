package backup

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/virtbackup/virtbackup/checkpoint"
	"github.com/virtbackup/virtbackup/fault"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/xml"
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
	// As everybody else will see it: with what the seal has filled in.
	if sealed, err := r.repo.Point(r.Domain, r.plan.ID); err == nil {
		r.point = sealed
	}
	return nil
}

// fillManifest completes what begin and copyDisks have entered.
func (r *run) fillManifest() error {
	libvirt, qemu, err := r.conn.Versions()
	if err != nil {
		return err
	}
	m := &r.point
	m.ID, m.Kind, m.Checkpoint = r.plan.ID, r.plan.Kind, r.plan.Checkpoint
	if r.plan.Base != nil {
		m.Parent = r.plan.Base.ID
	}
	m.Domain, m.DomainUUID = r.Domain, r.domain.UUID()
	m.Finished = time.Now().UTC()
	m.Consistency = repository.ConsistencyCrash
	if r.quiesced {
		m.Consistency = repository.ConsistencyFilesystem
	}
	m.Versions = repository.Versions{Virtbackup: r.Version, Libvirt: libvirt, QEMU: qemu}
	m.Gone, m.Warnings = r.plan.Gone, r.result.Warnings
	return nil
}

// writeDocuments keeps the domain's XML, to define it again, and the
// checkpoint's, to tell libvirt of its bitmaps again when it has lost them.
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
	if doc, err = r.domain.CheckpointXML(r.plan.Checkpoint); err != nil {
		return err
	}
	return r.partial.WriteFile("checkpoint.xml", []byte(doc))
}

// domainXML is the persistent configuration, which virsh define takes; that of a
// transient domain is what runs.
func (r *run) domainXML() (string, error) {
	persistent, err := r.domain.Persistent()
	if err != nil {
		return "", err
	}
	if persistent {
		return r.domain.InactiveXML()
	}
	return r.domain.XML()
}

// retire deletes checkpoints of ours that are of no use: those that no sealed
// point needs and, now that there is a new one, those whose bitmaps are all lost.
// The point is sealed: what goes wrong here is a warning.
func (r *run) retire(context.Context) error {
	all, err := r.survey(false)
	if err != nil {
		r.warn("list checkpoints to retire: %v", err)
		return nil
	}
	dead, err := r.dead()
	if err != nil {
		r.warn("look for checkpoints whose bitmaps are lost: %v", err)
	}
	for _, c := range all {
		remove, why := r.site().DeleteCheckpoint, "no point needs it"
		switch {
		case !c.Ours || c.Sealed && !slices.Contains(dead, c.Name):
			continue
		case c.Sealed:
			remove, why = r.site().DeleteDead, "its bitmaps are lost"
		}
		if err := fault.Around("retire", func() error { return remove(c.Name) }); err != nil {
			r.warn("retire %v", err)
			continue
		}
		r.Log.Info(fmt.Sprintf("retired checkpoint %s: %s", c.Name, why))
	}
	return nil
}

// dead names the checkpoints of ours that have lost all their bitmaps. A run that
// has made no checkpoint finds none: they are what the next one tells why it falls
// back.
//
// A size is missing, too, where libvirt could not tell it just then. So it must
// be missing twice.
func (r *run) dead() ([]string, error) {
	if r.plan.Checkpoint == "" {
		return nil, nil
	}
	first, err := r.seemDead()
	if err != nil || len(first) == 0 {
		return nil, err
	}
	second, err := r.seemDead()
	return slices.DeleteFunc(first, func(name string) bool { return !slices.Contains(second, name) }), err
}

// seemDead names the checkpoints of ours of which libvirt tells no size. It names
// none unless it tells all of the new checkpoint, which is healthy: else the
// domain has ended meanwhile, or the answer is worth nothing. Nor does it name one
// with a disk that is detached, whose bitmap may be in its image.
func (r *run) seemDead() ([]string, error) {
	doc, err := r.domain.XML()
	if err != nil {
		return nil, err
	}
	guest, err := xml.ParseDomain(doc)
	if err != nil {
		return nil, err
	}
	all, err := r.survey(true)
	if err != nil {
		return nil, err
	}
	if made, ok := checkpoint.Find(all, r.plan.Checkpoint); !ok || !made.Healthy() {
		return nil, nil
	}
	detached := func(target string) bool { _, has := guest.Disk(target); return !has }
	var names []string
	for _, c := range all {
		if c.Ours && c.Dead() && !slices.ContainsFunc(c.Bitmaps(), detached) {
			names = append(names, c.Name)
		}
	}
	return names, nil
}
