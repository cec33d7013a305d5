package shutoff

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/qemuimg"
	"github.com/virtbackup/virtbackup/xml"
)

// Domain is a domain that measures, checks and deletes the bitmaps of its checkpoints also while
// it is shut off. What its images do not tell now is a *hypervisor.Error: ErrBusy if another
// process has one of them open, else ErrNotRunning, as libvirt says of every domain that is shut
// off.
type Domain struct {
	guest.Domain
	options Options
}

// refused is the error of libvirt's that tells a caller to try again later.
func refused(err error) error {
	kind := hypervisor.ErrNotRunning
	if errors.Is(err, qemuimg.ErrLocked) {
		kind = hypervisor.ErrBusy
	}
	message := err.Error()
	if shared := (*SharedError)(nil); errors.As(err, &shared) {
		message += ", unless --exclusive says that none does"
	}
	return &hypervisor.Error{Kind: kind, Message: message}
}

// Checkpoints lists the checkpoints, with sizes also of a domain that is shut off.
func (d *Domain) Checkpoints(sizes bool) ([]string, error) {
	docs, err := d.Domain.Checkpoints(sizes)
	if err != nil || !sizes || len(docs) == 0 {
		return docs, err
	}
	if active, err := d.Active(); err != nil || active {
		return docs, err
	}
	docs, _, err = d.withSizes(docs)
	return docs, err
}

// CheckpointSizes is the document of a checkpoint, with sizes also of a domain that is shut off.
func (d *Domain) CheckpointSizes(name string) (string, error) {
	if active, err := d.Active(); err != nil || active {
		return d.either(err, func() (string, error) { return d.Domain.CheckpointSizes(name) })
	}
	doc, err := d.CheckpointXML(name)
	if err != nil {
		return "", err
	}
	docs, unknown, err := d.withSizes([]string{doc})
	if err == nil && unknown != nil {
		err = refused(unknown)
	}
	if err != nil {
		return "", err
	}
	return docs[0], nil
}

func (d *Domain) either(err error, do func() (string, error)) (string, error) {
	if err != nil {
		return "", err
	}
	return do()
}

// withSizes adds sizes to documents of checkpoints of a domain that is shut off. Disks that it
// does not have any more get none, nor do those whose images cannot be read now: unknown is why.
func (d *Domain) withSizes(docs []string) (sized []string, unknown, err error) {
	wanted := map[string][]string{}
	for _, doc := range docs {
		c, err := xml.ParseCheckpoint(doc)
		if err != nil {
			return nil, nil, err
		}
		for _, disk := range c.Disks {
			if disk.Bitmap != "" {
				wanted[disk.Target] = append(wanted[disk.Target], disk.Bitmap)
			}
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookTime)
	defer cancel()
	chains, unknown, err := d.chains(ctx, wanted)
	if err != nil {
		return nil, nil, err
	}
	for target := range wanted {
		if chains[target] == nil {
			delete(wanted, target)
		}
	}
	found, err := sizes(ctx, chains, wanted)
	if err != nil {
		return nil, nil, refused(err)
	}
	for _, doc := range docs {
		doc, err := xml.WithSizes(doc, func(target, bitmap string) (int64, bool) {
			size, ok := found[target][bitmap]
			return size, ok
		})
		if err != nil {
			return nil, nil, err
		}
		sized = append(sized, doc)
	}
	return sized, unknown, nil
}

// chains describes the images of those disks that the domain has. unknown is why one is left out:
// it is on the network, its image is gone, another process has it open (qemuimg.ErrLocked), ….
func (d *Domain) chains(ctx context.Context, wanted map[string][]string) (all map[string][]qemuimg.Image, unknown, err error) {
	described, err := guest.Describe(d)
	if err != nil {
		return nil, nil, err
	}
	all = map[string][]qemuimg.Image{}
	for _, disk := range described.Disks {
		if wanted[disk.Target] == nil || disk.Source == "" {
			continue
		}
		chain, err := Images(ctx, d, disk, false)
		if err != nil {
			unknown = errors.Join(unknown, err)
			continue
		}
		all[disk.Target] = chain
	}
	return all, unknown, nil
}

// DeleteCheckpoint deletes a checkpoint and its bitmaps, those of a domain that is shut off by
// qemu-img, from every image that has one. Unless all of them can be deleted, none is, and the
// checkpoint stays. A bitmap that is not there is none to delete.
func (d *Domain) DeleteCheckpoint(name string, metadataOnly bool) error {
	if metadataOnly {
		return d.Domain.DeleteCheckpoint(name, true)
	}
	active, err := d.Active()
	if err != nil {
		return err
	}
	if !active {
		if err := d.removeBitmaps(name); err != nil {
			return err
		}
	}
	return d.Domain.DeleteCheckpoint(name, !active)
}

// imagesOf returns the checkpoint of a document, its bitmaps, and the images of each disk that has
// one. An image that cannot be looked at is an error: its bitmap would be left, or taken as broken.
func (d *Domain) imagesOf(doc string) (c xml.Checkpoint, wanted map[string][]string, chains map[string][]qemuimg.Image, err error) {
	if c, err = xml.ParseCheckpoint(doc); err != nil {
		return c, nil, nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookTime)
	defer cancel()
	wanted = bitmapsOf(c)
	chains, unknown, err := d.chains(ctx, wanted)
	if err == nil && unknown != nil {
		err = refused(unknown)
	}
	return c, wanted, chains, err
}

// removeBitmaps removes the bitmaps of a checkpoint of a domain that is shut off.
func (d *Domain) removeBitmaps(name string) error {
	doc, err := d.CheckpointXML(name)
	if err != nil {
		return err
	}
	_, wanted, chains, err := d.imagesOf(doc)
	if err != nil {
		return err
	}
	type stored struct {
		image  qemuimg.Image
		bitmap string
	}
	var all []stored
	for _, target := range slices.Sorted(maps.Keys(chains)) {
		for _, image := range chains[target] {
			if _, ok := image.Bitmap(wanted[target][0]); !ok {
				continue
			}
			if err := errors.Join(d.options.mayWrite(image.Path), roomWithout(image, wanted[target][0])); err != nil {
				return refused(err)
			}
			all = append(all, stored{image, wanted[target][0]})
		}
	}
	for _, s := range all {
		if err := RemoveBitmap(s.image, s.bitmap); err != nil {
			return refused(err)
		}
	}
	return nil
}

// bitmapsOf are the bitmaps of a checkpoint, by target: one of each disk.
func bitmapsOf(c xml.Checkpoint) map[string][]string {
	all := map[string][]string{}
	for _, disk := range c.Disks {
		if disk.Bitmap != "" {
			all[disk.Target] = []string{disk.Bitmap}
		}
	}
	return all
}

// RedefineCheckpoint gives libvirt back its record of a checkpoint. With validate the bitmaps are
// checked, also those of a domain that is shut off: hypervisor.ErrCheckpointInconsistent.
func (d *Domain) RedefineCheckpoint(doc string, validate bool) error {
	if !validate {
		return d.Domain.RedefineCheckpoint(doc, false)
	}
	active, err := d.Active()
	if err != nil {
		return err
	}
	if !active {
		if err := d.checkBitmaps(doc); err != nil {
			return err
		}
	}
	return d.Domain.RedefineCheckpoint(doc, active)
}

func (d *Domain) checkBitmaps(doc string) error {
	c, wanted, chains, err := d.imagesOf(doc)
	if err != nil {
		return err
	}
	var broken []string
	for target, names := range wanted {
		if Layers(chains[target], names[0]) == 0 {
			broken = append(broken, target)
		}
	}
	if len(broken) > 0 {
		slices.Sort(broken)
		return &hypervisor.Error{Kind: hypervisor.ErrCheckpointInconsistent, Message: fmt.Sprintf("checkpoint %s has no usable bitmap of %v", c.Name, broken)}
	}
	return nil
}
