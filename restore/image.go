package restore

import (
	"context"
	"errors"
	"fmt"

	"github.com/virtbackup/virtbackup/flatten"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/qcow2/chain"
)

// restoreDisk flattens a chain into one image.
func (r *restorer) restoreDisk(ctx context.Context, d *Disk) (err error) {
	images, closeImages, err := r.point.OpenDisk(ctx, d.Target)
	if err != nil {
		return err
	}
	defer closeImages()
	file, err := directio.Create(d.Image+partialSuffix, 0o600, directio.Auto)
	if err != nil {
		return err
	}
	r.makes(file.Name())
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := fault.Point("restore disk"); err != nil {
		return err
	}
	copied := func(bytes int64) { r.Progress(d.Target, bytes, -1) }
	if d.Format == Raw {
		d.DataBytes, err = copyRaw(ctx, images, file, copied)
	} else {
		d.DataBytes, err = copyQCOW2(ctx, images, file, copied)
	}
	if err != nil {
		return err
	}
	if !file.Direct() {
		r.Log.Debug(fmt.Sprintf("the file system of %s refuses O_DIRECT: the image of disk %s went through the page cache, which was emptied behind it", r.Dir, d.Target))
	}
	return file.Sync()
}

func copyRaw(ctx context.Context, images *chain.Chain, file *directio.File, copied func(bytes int64)) (int64, error) {
	if err := file.Truncate(images.Size()); err != nil {
		return 0, err
	}
	raw := &rawImage{file: file, size: images.Size(), cluster: images.ClusterSize()}
	err := flatten.Copy(ctx, images, raw, copied)
	return raw.data.Load(), err
}

func copyQCOW2(ctx context.Context, images *chain.Chain, file *directio.File, copied func(bytes int64)) (int64, error) {
	file.Grow()
	writer, err := qcow2.NewWriter(file, qcow2.Options{VirtualSize: images.Size(), ClusterSize: int(images.ClusterSize())})
	if err != nil {
		return 0, err
	}
	if err := flatten.Copy(ctx, images, writer, copied); err != nil {
		return 0, err
	}
	stats, err := writer.Finish(file.Sync)
	if err != nil {
		return 0, err
	}
	return stats.DataBytes, file.Truncate(stats.FileBytes)
}
