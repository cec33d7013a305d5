package backup

import (
	"context"
	"errors"
	"fmt"

	"github.com/virtbackup/virtbackup/backup/plan"
	"github.com/virtbackup/virtbackup/extent"
	"github.com/virtbackup/virtbackup/flatten"
	"github.com/virtbackup/virtbackup/guest/extras"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/nbdcopy"
	"github.com/virtbackup/virtbackup/qcow2"
)

// inspectDisks records in s what the source says about each disk.
func (r *run) inspectDisks(s *plan.State) error {
	disks, err := r.source.Inspect(r.seen.Disks)
	if err != nil {
		return err
	}
	for _, d := range disks {
		s.Disks = append(s.Disks, d.Disk)
		if d.Unfit() == "" {
			s.Sizes[d.Target], s.Allocated[d.Target], s.Images[d.Target] = d.Size, d.Allocated, d.Images
		}
	}
	return nil
}

// copyDisks copies the disks in parallel. The first error stops all of them.
func (r *run) copyDisks(ctx context.Context) ([]manifest.Disk, error) {
	disks := make([]manifest.Disk, len(r.plan.Disks))
	err := r.Limits.EachDisk(ctx, len(disks), func(ctx context.Context, i int) (err error) {
		d := r.plan.Disks[i]
		if disks[i], err = r.copyDisk(ctx, d); err != nil {
			return fmt.Errorf("copy disk %s of domain %s: %w", d.Target, r.Domain, err)
		}
		return nil
	})
	return disks, err
}

// copyDisk copies one disk into its image and returns its entry in the manifest.
func (r *run) copyDisk(ctx context.Context, d plan.Disk) (disk manifest.Disk, err error) {
	export, err := r.openDisk(ctx, d)
	if err != nil {
		return disk, err
	}
	defer export.Close()
	if export.Size() < d.BaseSize {
		return disk, fmt.Errorf("it has shrunk to %d bytes since it was looked at", export.Size())
	}
	base, closeBase, err := r.openBase(ctx, d)
	if err != nil {
		return disk, err
	}
	defer closeBase()
	image, err := r.partial.CreateImage(d.Target, r.Direct)
	if err != nil {
		return disk, err
	}
	defer func() { err = errors.Join(err, image.Close()) }()
	r.meter.Writes(image)
	options := qcow2.Options{VirtualSize: export.Size(), BackingFile: d.Parent, NewCompressor: r.compressor()}
	if d.Parent != "" {
		options.BackingFormat = "qcow2"
	}
	writer, err := qcow2.NewWriter(image, options)
	if err != nil {
		return disk, err
	}
	var sink extent.Sink = writer
	if base != nil {
		if sink, err = flatten.Compare(base, writer); err != nil {
			return disk, err
		}
	}
	if _, err := export.Copy(ctx, sink, nbdcopy.Options{Connections: r.Connections, Limiter: r.Limits, Progress: r.progressOf(d)}); err != nil {
		return disk, err
	}
	r.meter.Moves() // the stall timeout of the flush starts now
	stats, err := writer.Finish(image.Sync)
	if err != nil {
		return disk, err
	}
	r.meter.Moves()
	digest, size, err := image.Finish()
	if err != nil {
		return disk, err
	}
	if r.Direct == directio.Auto && !image.Direct() {
		r.Log.Debug(fmt.Sprintf("the file system of %s refuses O_DIRECT: the image of disk %s was written through the page cache, and its pages were dropped", r.Repository, d.Target))
	}
	return manifestDisk(d, export.Size(), stats, digest, size), nil
}

func manifestDisk(d plan.Disk, virtual int64, stats qcow2.Stats, digest string, size int64) manifest.Disk {
	kind, method := manifest.KindFull, ""
	if d.Parent != "" {
		kind = manifest.KindInc
	}
	if d.Rescan {
		method = manifest.MethodRescan
	}
	return manifest.Disk{
		Target: d.Target, Image: d.Target + ".qcow2", Kind: kind, Method: method, Reason: d.Reason, Parent: d.Parent,
		VirtualSize: virtual, Source: d.Source, SourceFormat: d.Format, SourceID: d.SourceID, SourceEncrypted: d.Encrypted,
		SourceBackingIDs: manifest.BoundBackingIDs(d.BackingIDs),
		SourceOptions:    extras.SourceOptions(d.Source, d.SourceType, d.Format),
		DataBytes:        stats.DataBytes, ZeroBytes: stats.ZeroBytes, ImageBytes: size, Hashes: digest,
	}
}

func (r *run) progressOf(d plan.Disk) func(nbdcopy.Progress) {
	return func(p nbdcopy.Progress) {
		r.meter.Note(d.Target, p.Copied)
		expected := d.Expected
		if d.Incremental && !d.Measured { // libvirt's estimate includes zeros
			expected -= p.Zero
		}
		r.Progress(d.Target, p.Copied, expected)
	}
}
