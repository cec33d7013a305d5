package inplace

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/description"
	"github.com/virtbackup/virtbackup/guest/shutoff"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/restore/device"
	"github.com/virtbackup/virtbackup/xml"
)

// refuse finds the disks, and everything that keeps them from being restored in place. It
// changes nothing, and is called again once the domain is off and locked.
func (r *run) refuse(ctx context.Context) error {
	if err := r.refuseDomain(); err != nil {
		return err
	}
	if err := r.findDisks(ctx); err != nil {
		return err
	}
	if err := r.refuseOtherUsers(ctx); err != nil {
		return err
	}
	return r.refuseBusyDevices()
}

// refuseBusyDevices refuses devices and files that the host itself uses: mounted, or part of another
// device.
func (r *run) refuseBusyDevices() error {
	active, err := r.domain.Active()
	if err != nil || active { // its own QEMU uses them
		return err
	}
	for _, d := range r.disks {
		if err := busy(d); err != nil {
			return fmt.Errorf("disk %s of domain %s: %w", d.Target, r.Domain, err)
		}
	}
	return nil
}

func busy(d *disk) error {
	if !d.device {
		return device.FileInUse(d.Path)
	}
	opened, err := device.Open(d.Path)
	if err != nil {
		return err
	}
	return opened.Close()
}

func (r *run) refuseDomain() error {
	if uuid := r.domain.UUID(); uuid != r.chosen.DomainUUID {
		return fail.Errorf(fail.Usage, "restore --define --to DIR --name NEW makes a domain of the point",
			"domain %s has UUID %s, point %s is of %s: another domain of that name", r.Domain, uuid, r.chosen.ID, r.chosen.DomainUUID)
	}
	if err := r.refuseState(); err != nil {
		return err
	}
	doc, err := r.domain.InactiveXML()
	if err != nil {
		return err
	}
	r.described, err = xml.ParseDomain(doc)
	return err
}

// findDisks pairs the disks of the point with those of the domain.
func (r *run) findDisks(ctx context.Context) error {
	r.disks = nil
	for _, target := range r.Disks {
		if _, ok := r.chosen.Disk(target); !ok {
			return fail.Errorf(fail.NotFound, "virtbackup show "+manifest.ShellWord(r.Domain+"@"+r.chosen.ID), "point %s of domain %s has no disk %q", r.chosen.ID, r.Domain, target)
		}
	}
	for _, then := range r.chosen.Disks {
		if len(r.Disks) > 0 && !slices.Contains(r.Disks, then.Target) {
			continue
		}
		d, err := r.findDisk(ctx, then)
		if err != nil {
			return err
		}
		r.disks = append(r.disks, d)
	}
	return r.refuseToLeave()
}

func (r *run) findDisk(ctx context.Context, then manifest.Disk) (*disk, error) {
	now, ok := r.described.Disk(then.Target)
	if !ok {
		return nil, fail.Errorf(fail.Usage, r.without(then.Target), "domain %s has no disk %s any more", r.Domain, then.Target)
	}
	if why := unfit(now); why != "" {
		return nil, fail.Errorf(fail.Usage, r.without(then.Target), "disk %s of domain %s cannot be restored in place: %s", then.Target, r.Domain, why)
	}
	d := &disk{then: then, now: now, Disk: Disk{Target: then.Target, Format: now.Format, VirtualSize: then.VirtualSize}}
	if err := r.examine(ctx, d, true); err != nil {
		return nil, err
	}
	return d, r.refuseSize(d)
}

// without is the command's option that leaves a disk out.
func (r *run) without(target string) string {
	var others strings.Builder
	for _, d := range r.chosen.Disks {
		if _, ok := r.described.Disk(d.Target); ok && d.Target != target {
			others.WriteString(" --disk " + manifest.ShellWord(d.Target))
		}
	}
	if others.Len() == 0 {
		return "restore --define --to DIR makes new images of it"
	}
	return strings.TrimSpace(others.String()) + " restores the others; --to DIR makes images of all"
}

// unfit says why a disk is not restored in place; "" if it may be.
func unfit(d xml.Disk) string {
	if why := d.Unfit(); why != "" {
		return "it is " + why
	}
	return ""
}

// refuseSize refuses to resize what must not be resized.
func (r *run) refuseSize(d *disk) error {
	if d.size == d.then.VirtualSize {
		return nil
	}
	d.ResizedFrom, d.resized = d.size, true
	what := fmt.Sprintf("disk %s has %d bytes, and had %d at %s", d.Target, d.size, d.then.VirtualSize, r.chosen.ID)
	if d.device {
		return fail.Errorf(fail.Usage, "--disk "+d.Target+" --output DEVICE restores to another device", "%s: a device is not resized", what)
	}
	top := d.images[0]
	if top.QCOW2 == nil {
		return nil
	}
	if top.QCOW2.Snapshots > 0 {
		return fail.Errorf(fail.Usage, "virsh snapshot-delete, or qemu-img snapshot -d", "%s: an image with internal snapshots is not resized", what)
	}
	ours, err := r.ourBitmaps()
	if err != nil {
		return err
	}
	for _, b := range top.QCOW2.Bitmaps {
		if !ours(b.Name) {
			return fail.Errorf(fail.Usage, "restore --define --to DIR, or remove the bitmap (qemu-img bitmap --remove)",
				"%s: bitmap %s in %s is not ours, and would not show what the resize changes", what, b.Name, top.Path)
		}
		d.drop = append(d.drop, b.Name)
	}
	return nil
}

// ourBitmaps returns a function that tells whether a bitmap is ours alone. One whose identity was
// forgotten, as its checkpoint was deleted, is known by the manifest of its point: an image that was
// rolled back, or put aside meanwhile, has it again.
func (r *run) ourBitmaps() (ours func(name string) bool, err error) {
	ledger, err := r.Repository.Ledger(r.Domain)
	if err != nil {
		return nil, err
	}
	lineage, err := r.Repository.Lineage(r.Domain)
	if err != nil {
		return nil, err
	}
	forgotten := map[string]bool{}
	for _, m := range slices.Concat(lineage.Points, lineage.Hidden) {
		if m.Identity != "" && m.Checkpoint != "" {
			forgotten[manifest.CheckpointName(m.ID, m.Identity)] = true
		}
	}
	return func(name string) bool {
		if i, ok := issued(ledger, name); ok {
			return !ledger.Inherited(i)
		}
		return forgotten[name]
	}, nil
}

// examine looks at the images of a disk. With force, another process may have them open.
func (r *run) examine(ctx context.Context, d *disk, force bool) (err error) {
	var (
		only     *shutoff.RunningOnlyError
		unusable *shutoff.UnusableError
	)
	switch d.images, err = shutoff.Images(ctx, r.domain, d.now, force); {
	case errors.As(err, &only):
		return fail.Errorf(fail.Usage, r.without(d.Target), "disk %s of domain %s cannot be restored in place: %s", d.Target, r.Domain, only.Why)
	case errors.As(err, &unusable):
		return fail.WithHint(err, "restore --define --to DIR makes new images, once the domain is undefined; or put the file back")
	case err != nil:
		return err
	}
	top := d.images[0]
	d.Path, d.size = top.Path, top.VirtualSize
	info, err := os.Stat(d.Path)
	if err != nil {
		return err
	}
	d.device = !info.Mode().IsRegular()
	if err := unix.Access(d.Path, unix.W_OK); err != nil {
		return fail.Errorf(fail.Other, "is its file system mounted read-only, and does this user own it? restore --define --to DIR makes new images elsewhere",
			"disk %s of domain %s: its image %s cannot be written to: %w", d.Target, r.Domain, d.Path, err)
	}
	real, err := localfile.RealPath(d.Path)
	if err != nil {
		return err
	}
	if repo := description.Containing(real); repo != "" {
		return fail.Errorf(fail.Usage, "restore --define --to DIR", "disk %s: its image %s is in the repository %s", d.Target, top.Path, repo)
	}
	return nil
}
