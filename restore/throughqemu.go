package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/extent"
	"github.com/virtbackup/virtbackup/internal/eintr"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/qemuimg"
	"github.com/virtbackup/virtbackup/internal/storagedaemon"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/nbdcopy"
	"github.com/virtbackup/virtbackup/qcow2/chain"
)

// needsQEMU tells whether an image with the options of its source is not what package qcow2
// writes. An external data file is not made again: the image holds its own data.
func needsQEMU(o manifest.SourceOptions) bool {
	return o.Known() && (o.Compat != "1.1" || o.ClusterSize != imageCluster || o.RefcountBits != 0 && o.RefcountBits != 16 ||
		o.CompressionType == "zstd" || o.LazyRefcounts || o.ExtendedL2)
}

// createOptions are those of qemu-img create -o.
func (r *restorer) createOptions(o manifest.SourceOptions) []string {
	options := []string{"compat=" + o.Compat, fmt.Sprintf("cluster_size=%d", o.ClusterSize), "preallocation=" + string(r.Preallocation)}
	if o.RefcountBits != 0 {
		options = append(options, fmt.Sprintf("refcount_bits=%d", o.RefcountBits))
	}
	if o.LazyRefcounts {
		options = append(options, "lazy_refcounts=on")
	}
	if o.ExtendedL2 {
		options = append(options, "extended_l2=on")
	}
	if o.CompressionType == "zstd" {
		options = append(options, "compression_type=zstd")
	}
	return options
}

// throughQEMU makes an image with the options of its source: qemu-img creates it, and
// qemu-storage-daemon writes it. The error is exec.ErrNotFound where QEMU's programs are not
// installed; nothing is left then.
func (r *restorer) throughQEMU(ctx context.Context, images *chain.Chain, d *Disk, o manifest.SourceOptions) (err error) {
	path := d.Image + partialSuffix
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	r.makes(path)
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := fault.Point("restore disk"); err != nil {
		return err
	}
	// Programs of QEMU may outlive this process for a moment. By its name they might open the
	// file of the restore that is begun again; this one's descriptor is gone with it.
	here := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), file.Fd())
	if err := r.fillThroughQEMU(ctx, images, d, here, o); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			err = errors.Join(err, os.Remove(path))
		}
		return err
	}
	return fault.Around("fsync image of QEMU", func() error {
		return eintr.Retry(func() error { return unix.Fsync(int(file.Fd())) })
	})
}

// fillThroughQEMU makes an image of an empty file.
func (r *restorer) fillThroughQEMU(ctx context.Context, images *chain.Chain, d *Disk, path string, o manifest.SourceOptions) (err error) {
	if err := qemuimg.Create(path, string(QCOW2), d.VirtualSize, r.createOptions(o)...); err != nil {
		return err
	}
	dir, removeDir, err := socketDir()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removeDir()) }()
	daemon, err := storagedaemon.Start(ctx, dir, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, daemon.Close()) }()
	disk, err := daemon.Open(ctx, d.Target, []qemuimg.Image{{Path: path, Format: string(QCOW2), VirtualSize: d.VirtualSize}}, true)
	if err != nil {
		return err
	}
	if err := disk.Export(ctx, "", true); err != nil {
		return err
	}
	to, err := nbdcopy.OpenTarget(ctx, daemon.Socket(), d.Target, nbdcopy.TargetOptions{ClusterSize: int(images.ClusterSize())})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	sink := &newImage{Sink: to, size: images.Size()}
	if err := r.copy(ctx, images, sink, d.Target); err != nil {
		return err
	}
	d.DataBytes = sink.data.Load()
	return to.Flush()
}

// newImage is a sink that reads as zeros at first.
type newImage struct {
	extent.Sink
	size int64 // of the disk, bytes
	data atomic.Int64
}

// Zero does nothing.
func (n *newImage) Zero(int64, int64) error { return nil }

// Write counts.
func (n *newImage) Write(offsets []int64, data []byte) error {
	for _, offset := range offsets {
		n.data.Add(min(int64(n.ClusterSize()), n.size-offset))
	}
	return n.Sink.Write(offsets, data)
}

// keepOptions makes an image with the options of its source, if package qcow2 does not write
// such images. done is false if it need not be so, or cannot.
func (r *restorer) keepOptions(ctx context.Context, images *chain.Chain, d *Disk) (done bool, err error) {
	source, _ := r.point.Disk(d.Target)
	switch o := source.SourceOptions; {
	case d.Format != QCOW2 || !needsQEMU(o):
		return false, nil
	case r.Zstd != 0: // what writes compressed clusters is package qcow2
		r.Log.Info(fmt.Sprintf("disk %s: a compressed image does not keep the options of its source", d.Target))
		return false, nil
	default:
		err = r.throughQEMU(ctx, images, d, o)
	}
	if errors.Is(err, exec.ErrNotFound) {
		r.point.Warn(fmt.Sprintf("disk %s: the image has the usual options, not those of its source, which take QEMU's programs: %v", d.Target, err))
		return false, nil
	}
	return true, err
}
