package restore

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/virtbackup/virtbackup/internal/bytesize"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/qcow2/chain"
	"github.com/virtbackup/virtbackup/restore/device"
)

// headBytes of a device are zeros until all else is written: partition table, boot loader,
// file system. So nothing boots from a part of a disk, or mounts it.
const headBytes = 1 << 20

// outputDevice overwrites a block device with a disk.
func (r *restorer) outputDevice(ctx context.Context, d *Disk) (beyond int64, err error) {
	if r.Users != nil {
		users, err := r.Users(ctx, r.Output)
		if err != nil {
			return 0, err
		}
		if len(users) > 0 {
			return 0, fail.Errorf(fail.Usage, "name another device; restore --in-place restores to a domain's own disks", "device %s is in use: %s", r.Output, strings.Join(users, "; "))
		}
	}
	dev, err := device.Open(r.Output)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	if dev.Size() < d.VirtualSize {
		return 0, fail.Errorf(fail.Usage, "name a larger device", "device %s has %s (%d bytes), disk %s has %s (%d bytes)",
			r.Output, bytesize.Text(dev.Size()), dev.Size(), d.Target, bytesize.Text(d.VirtualSize), d.VirtualSize)
	}
	images, closeImages, err := r.point.OpenDisk(ctx, d.Target)
	if err != nil {
		return 0, r.point.CheckRest(ctx, err)
	}
	defer closeImages()
	if d.DataBytes, err = r.overwrite(ctx, images, dev, d); err != nil {
		return 0, fail.WithHint(fmt.Errorf("restore disk %s of %s@%s to %s: %w", d.Target, r.Domain, r.point.ID, r.Output, err),
			"%s has a part of the disk, and zeros in its first MiB%s", r.Output, nextStep(err))
	}
	return dev.Size() - d.VirtualSize, nil
}

// nextStep continues the hint: what to do about damage, which another attempt meets again, or else
// that attempt.
func nextStep(err error) string {
	if fail.Is(err, fail.Damaged) {
		return "; " + fail.HintOf(err)
	}
	return ": begin the restore again"
}

// overwrite writes a whole disk, the head last.
func (r *restorer) overwrite(ctx context.Context, images *chain.Chain, dev *device.Device, d *Disk) (data int64, err error) {
	head := &headLast{device: dev, head: directio.Buffer(int(min(headBytes, images.Size())))}
	if err := fault.Point("device: before head"); err != nil {
		return 0, err
	}
	if err := errors.Join(dev.Zero(ctx, 0, int64(len(head.head))), dev.Sync()); err != nil {
		return 0, err
	}
	raw := &rawImage{file: head, size: images.Size(), cluster: images.ClusterSize()}
	err = eachGap(ctx, images, func(offset, length int64) error {
		skip := max(0, min(length, headBytes-offset))
		return dev.Zero(ctx, offset+skip, length-skip)
	})
	if err == nil {
		err = r.copy(ctx, images, raw, d.Target)
	}
	if err := r.point.CheckRest(ctx, err); err != nil {
		return 0, err
	}
	if err := dev.Sync(); err != nil {
		return 0, err
	}
	if _, err := dev.WriteAt(head.head, 0); err != nil {
		return 0, err
	}
	return raw.data.Load(), errors.Join(dev.Sync(), fault.Point("restore: done"))
}

// headLast writes to a device, and keeps what belongs to its head.
type headLast struct {
	device *device.Device
	head   []byte // page-aligned
}

// WriteAt writes or keeps p.
func (h *headLast) WriteAt(p []byte, off int64) (int, error) {
	kept := 0
	if off < int64(len(h.head)) {
		kept = copy(h.head[off:], p)
	}
	if kept == len(p) {
		return kept, nil
	}
	n, err := h.device.WriteAt(p[kept:], off+int64(kept))
	return kept + n, err
}

// eachGap calls do with each part of a disk that reads as zeros: no image has data there.
func eachGap(ctx context.Context, images *chain.Chain, do func(offset, length int64) error) error {
	from := int64(0) // where the gap begins that is being looked at
	end := func(at int64) error {
		if at > from {
			return do(from, at-from)
		}
		return nil
	}
	for i := range images.Windows() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		w, err := images.Window(i)
		if err != nil {
			return err
		}
		if w == nil {
			continue
		}
		for k := 0; k < w.Len(); {
			next, state := w.Run(k)
			if state == chain.Data {
				if err := end(w.At(k)); err != nil {
					return err
				}
				from = w.At(next)
			}
			k = next
		}
	}
	return end(images.Size())
}
