package inplace

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/virtbackup/virtbackup/extent"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/limit"
	"github.com/virtbackup/virtbackup/internal/storagedaemon"
	"github.com/virtbackup/virtbackup/nbdcopy"
)

// target is a disk that is written to.
type target interface {
	extent.Sink
	// Flush puts all that was written on stable storage.
	Flush() error
	Close() error
}

// openTarget opens the disk to be written to.
func (r *run) openTarget(ctx context.Context, d *disk) (err error) {
	if d.Format == "raw" {
		if err := d.unwritten(); err != nil {
			return err
		}
		d.sink, err = openRaw(d)
		return err
	}
	// The reader does not let anybody write: it goes, and the writer comes, which lets nobody
	// write either. Nobody may have written in between.
	if err := d.closeReader(); err != nil {
		return err
	}
	daemon, err := r.startDaemon(ctx, true)
	if err != nil {
		return err
	}
	err = d.unwritten()
	if err == nil {
		d.sink, err = openThroughQEMU(ctx, daemon, d)
	}
	if err != nil {
		return errors.Join(err, daemon.Close())
	}
	return nil
}

// throughQEMU writes to a qcow2 image.
type throughQEMU struct {
	*nbdcopy.Target
	daemon *storagedaemon.Daemon
}

func openThroughQEMU(ctx context.Context, daemon *storagedaemon.Daemon, d *disk) (target, error) {
	opened, err := daemon.Open(ctx, d.Target, d.images, true)
	if err != nil {
		return nil, err
	}
	if err := opened.Export(ctx, "", true); err != nil {
		return nil, err
	}
	to, err := nbdcopy.OpenTarget(ctx, daemon.Socket(), d.Target, nbdcopy.TargetOptions{ClusterSize: int(d.cluster())})
	if err != nil {
		return nil, err
	}
	return &throughQEMU{to, daemon}, nil
}

// Close ends the daemon, which stores the bitmaps of the image.
func (t *throughQEMU) Close() error { return errors.Join(t.Target.Close(), t.daemon.Close()) }

// rawTarget is a raw file or a block device. The reader stays open meanwhile, and so its lock
// is held: the domain cannot start.
type rawTarget struct {
	file    *directio.File
	size    int64 // of the disk, bytes
	cluster int64 // bytes
}

func openRaw(d *disk) (*rawTarget, error) {
	flags := 0
	if d.device {
		flags = os.O_EXCL // refused where it is mounted, or part of another device (open(2))
	}
	file, err := directio.Open(d.Path, flags, directio.Auto)
	if err != nil {
		return nil, err
	}
	return &rawTarget{file: file, size: d.then.VirtualSize, cluster: d.cluster()}, nil
}

// ClusterSize is part of extent.Sink.
func (t *rawTarget) ClusterSize() int { return int(t.cluster) }

// Write is part of extent.Sink. Neighbours are one write.
func (t *rawTarget) Write(offsets []int64, data []byte) error {
	for len(offsets) > 0 {
		n := int64(1)
		for n < int64(len(offsets)) && offsets[n] == offsets[0]+n*t.cluster {
			n++
		}
		p := data[:min(n*t.cluster, t.size-offsets[0])]
		if _, err := t.file.WriteAt(p, offsets[0]); err != nil {
			return fmt.Errorf("write %d bytes at offset %d: %w", len(p), offsets[0], err)
		}
		offsets, data = offsets[n:], data[n*t.cluster:]
	}
	return nil
}

// Zero is part of extent.Sink.
func (t *rawTarget) Zero(offset, length int64) error { return t.file.Zero(offset, length) }

// Flush is part of target.
func (t *rawTarget) Flush() error { return t.file.Sync() }

// Close is part of target.
func (t *rawTarget) Close() error { return t.file.Close() }

// limited is a sink that passes on no more than the limits let through, and can be
// interrupted.
type limited struct {
	target
	ctx    context.Context
	limits *limit.Limits
}

// Write is part of extent.Sink.
func (l limited) Write(offsets []int64, data []byte) error {
	if err := l.limits.WaitN(l.ctx, len(data)); err != nil {
		return err
	}
	if err := fault.Point("in place: write"); err != nil {
		return err
	}
	return l.target.Write(offsets, data)
}

// Zero is part of extent.Sink.
func (l limited) Zero(offset, length int64) error {
	if l.ctx.Err() != nil {
		return context.Cause(l.ctx)
	}
	if err := fault.Point("in place: zero"); err != nil {
		return err
	}
	return l.target.Zero(offset, length)
}
