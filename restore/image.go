package restore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/extent"
	"github.com/virtbackup/virtbackup/flatten"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/limit"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/internal/zstd"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/qcow2/chain"
)

// restoreDisk makes the image of a disk.
func (r *restorer) restoreDisk(ctx context.Context, d *Disk) error {
	if r.Overlay != nil {
		return r.overlay(ctx, d)
	}
	return r.flattenDisk(ctx, d)
}

// overlay makes an image without data on its backing file. What reads as zeros is zeros in the image
// itself: QEMU would read it from the backing file otherwise, and copy it home.
func (r *restorer) overlay(ctx context.Context, d *Disk) (err error) {
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
	if err := fault.Point("restore: make overlay"); err != nil {
		return err
	}
	options := qcow2.Options{VirtualSize: images.Size(), ClusterSize: int(images.ClusterSize()), BackingFile: r.Overlay(d.Target), BackingFormat: string(Raw)}
	if r.Mark != nil {
		options.Mark = r.Mark(d.Target)
	}
	writer, err := qcow2.NewWriter(file, options)
	if err != nil {
		return err
	}
	if err := zeroHoles(ctx, images, writer); err != nil {
		return err
	}
	stats, err := writer.Finish(file.Sync)
	if err != nil {
		return err
	}
	return errors.Join(file.Truncate(stats.FileBytes), file.Sync())
}

// holesTime bounds how long the domain waits for that: the tables of a chain of many terabytes take
// seconds. What is not looked at by then is copied.
const holesTime = 500 * time.Millisecond

// zeroHoles makes zeros of what reads as zeros in a chain, by its tables.
func zeroHoles(ctx context.Context, images *chain.Chain, writer *qcow2.Writer) error {
	for at, start := int64(0), time.Now(); at < images.Size() && time.Since(start) < holesTime; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		end, state, err := images.RunAt(at)
		if err != nil {
			return err
		}
		if state != chain.Data {
			if err := writer.Zero(at, end-at); err != nil {
				return err
			}
		}
		at = end
	}
	return nil
}

// flattenDisk flattens a chain into one image.
func (r *restorer) flattenDisk(ctx context.Context, d *Disk) (err error) {
	images, closeImages, err := r.point.OpenDisk(ctx, d.Target)
	if err != nil {
		return err
	}
	defer closeImages()
	if done, err := r.keepOptions(ctx, images, d); done || err != nil {
		return err
	}
	file, err := directio.Create(d.Image+partialSuffix, 0o600, directio.Auto)
	if err != nil {
		return err
	}
	r.makes(file.Name())
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := fault.Point("restore disk"); err != nil {
		return err
	}
	if d.Format == Raw {
		d.DataBytes, err = r.copyRaw(ctx, images, file, d.Target)
	} else {
		d.DataBytes, err = r.copyQCOW2(ctx, images, file, d.Target)
	}
	if err != nil {
		return err
	}
	if r.Preallocation == PreallocateFull {
		if err := fillHoles(ctx, file); err != nil {
			return err
		}
	}
	if !file.Direct() {
		r.Log.Debug(fmt.Sprintf("the file system of %s refuses O_DIRECT: the image of disk %s went through the page cache, which was emptied behind it", r.Dir, d.Target))
	}
	return file.Sync()
}

// copy flattens a chain into a sink, at the rate that is allowed.
func (r *restorer) copy(ctx context.Context, images *chain.Chain, sink extent.Sink, target string) error {
	return flatten.Copy(ctx, images, &limited{sink, ctx, r.Limits}, func(bytes int64) { r.Progress(target, bytes, -1) })
}

func (r *restorer) copyRaw(ctx context.Context, images *chain.Chain, file *directio.File, target string) (int64, error) {
	if err := file.Truncate(images.Size()); err != nil {
		return 0, err
	}
	if r.allocatesAll() {
		if err := allocate(file, images.Size()); err != nil {
			return 0, err
		}
	}
	raw := &rawImage{file: file, size: images.Size(), cluster: images.ClusterSize()}
	err := r.copy(ctx, images, raw, target)
	return raw.data.Load(), err
}

func (r *restorer) copyQCOW2(ctx context.Context, images *chain.Chain, file *directio.File, target string) (int64, error) {
	if r.Preallocation == PreallocateOff {
		file.Grow()
	}
	writer, err := qcow2.NewWriter(file, qcow2.Options{VirtualSize: images.Size(), ClusterSize: int(images.ClusterSize()), NewCompressor: r.compressor()})
	if err != nil {
		return 0, err
	}
	if err := r.copy(ctx, images, writer, target); err != nil {
		return 0, err
	}
	if r.Preallocation != PreallocateOff {
		if err := writer.Preallocate(); err != nil {
			return 0, err
		}
	}
	stats, err := writer.Finish(file.Sync)
	if err != nil {
		return 0, err
	}
	if err := file.Truncate(stats.FileBytes); err != nil || !r.allocatesAll() {
		return stats.DataBytes, err
	}
	return stats.DataBytes, allocate(file, stats.FileBytes)
}

// allocate takes the space for a whole file.
func allocate(file *directio.File, length int64) error {
	err := file.Allocate(length)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fail.WithHint(err, "the file system cannot allocate space: --preallocation full writes it")
	}
	return err
}

// compressor is what qcow2.Options wants; nil does not compress.
func (r *restorer) compressor() func() qcow2.Compressor {
	if r.Zstd == 0 {
		return nil
	}
	return func() qcow2.Compressor { return zstd.New(r.Zstd) }
}

// limited is a sink that takes data at the rate that is allowed.
type limited struct {
	extent.Sink
	ctx    context.Context
	limits *limit.Limits
}

// Write waits until it may write.
func (l *limited) Write(offsets []int64, data []byte) error {
	if err := l.limits.WaitN(l.ctx, len(data)); err != nil {
		return err
	}
	return l.Sink.Write(offsets, data)
}

// zerosAtOnce are written to a hole.
const zerosAtOnce = 1 << 20

// fillHoles writes zeros to all of a file that was not written, allocated or not.
func fillHoles(ctx context.Context, file *directio.File) error {
	zeros := directio.Buffer(zerosAtOnce)
	return localfile.EachHole(file.Name(), func(offset, length int64) error {
		for length > 0 {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			n := min(length, zerosAtOnce)
			if _, err := file.WriteAt(zeros[:n], offset); err != nil {
				return err
			}
			offset, length = offset+n, length-n
		}
		return nil
	})
}
