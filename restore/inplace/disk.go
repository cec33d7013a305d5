package inplace

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/internal/bitset"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/qemuimg"
	"github.com/virtbackup/virtbackup/internal/storagedaemon"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/qcow2/chain"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/xml"
)

// headBytes are zeroed first and written last: the partition table, the boot sector and the
// boot loader are there, or the header of a volume group or file system.
const headBytes = 1 << 20

// disk is a disk that is restored.
type disk struct {
	Disk
	then    manifest.Disk
	now     xml.Disk
	images  []qemuimg.Image // the top one first
	size    int64           // that it has, bytes
	device  bool            // a block device
	resized bool            // it has another size than at the point, which may be 0 (ResizedFrom)
	drop    []string        // bitmaps of ours that a resize makes worthless
	seen    fileState       // of the top image, when pass one began

	reader     *storagedaemon.Daemon // keeps everybody from writing to the images
	readerDisk *storagedaemon.Disk
	exported   bool // by the reader

	chain      *chain.Chain // of the point
	closeChain func()

	differs   bitset.Set // clusters of the chain that are to be written
	headSet   bitset.Set // those of them that are in the first MiB, once they are apart
	done      int64      // bytes that were written
	allocated bitset.Set // clusters that have their space, where that was found out
	sink      target
}

// lockTime is how long to wait for another process that has an image open; lockPoll is how
// often to look.
const (
	lockTime = 5 * time.Second
	lockPoll = 100 * time.Millisecond
)

// issued tells whether a bitmap is one that this repository has made.
func issued(ledger *repository.Ledger, bitmap string) (instants.Instant, bool) {
	_, identity, ok := manifest.ParseCheckpointName(bitmap)
	if !ok {
		return instants.Instant{}, false
	}
	i, ok := ledger.Find(identity)
	return i, ok && i.CheckpointName() == bitmap
}

// open opens the disks for reading, and the point's chains. From now on nobody writes to the
// images: the domain cannot start.
func (r *run) open(ctx context.Context) error {
	for _, d := range r.disks {
		if err := r.openDisk(ctx, d); err != nil {
			return err
		}
	}
	return r.stillOff()
}

// stillOff returns an error unless the domain is off. The locks of a device do not keep it from
// starting, where libvirt gives it a node of its own for that (package imagelock).
func (r *run) stillOff() error {
	active, err := r.domain.Active()
	if err == nil && active {
		err = fail.Errorf(fail.Other, "virsh shutdown "+manifest.ShellWord(r.Domain), "domain %s was started meanwhile", r.Domain)
	}
	return err
}

func (r *run) openDisk(ctx context.Context, d *disk) (err error) {
	if err := r.awaitUnlocked(ctx, d); err != nil {
		return err
	}
	if d.reader, err = r.startDaemon(ctx, false); err != nil {
		return err
	}
	if d.readerDisk, err = d.reader.Open(ctx, d.Target, d.images, false); err != nil {
		return err
	}
	if d.seen, err = stateOf(d.Path); err != nil {
		return err
	}
	if err := r.checkSaved(ctx, d); err != nil {
		return err
	}
	d.chain, d.closeChain, err = r.point.OpenDisk(ctx, d.Target)
	return err
}

// awaitUnlocked examines the disk once nobody has its images open: the storage daemon of a killed
// restore stores its bitmaps before it ends.
func (r *run) awaitUnlocked(ctx context.Context, d *disk) (err error) {
	for deadline := time.Now().Add(lockTime); ; time.Sleep(lockPoll) {
		err = r.examine(ctx, d, false)
		switch {
		case !errors.Is(err, qemuimg.ErrLocked) || time.Now().After(deadline):
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
	}
}

// dirPrefix begins the name of the directory of a restore's sockets.
const dirPrefix = "virtbackup-in-place-"

// makeDir makes the directory of the sockets. The mark has it, so that the successor of a killed restore removes it.
func (r *run) makeDir() (err error) {
	if left := r.mark.Dir; strings.HasPrefix(filepath.Base(left), dirPrefix) {
		if err := os.RemoveAll(left); err != nil {
			return err
		}
	}
	if r.mark.Dir, err = os.MkdirTemp(storagedaemon.TempDir(), dirPrefix); err != nil {
		return err
	}
	return r.setMark()
}

// startDaemon starts a daemon whose socket is in a directory of its own.
func (r *run) startDaemon(ctx context.Context, writable bool) (*storagedaemon.Daemon, error) {
	dir, err := os.MkdirTemp(r.mark.Dir, "")
	if err != nil {
		return nil, err
	}
	daemon, err := storagedaemon.Start(ctx, dir, writable)
	if errors.Is(err, exec.ErrNotFound) {
		err = fail.WithHint(err, "%s", qemuimg.Packages)
	}
	return daemon, err
}

// closeDisks closes all that was opened.
func (r *run) closeDisks() error {
	var errs []error
	for _, d := range r.disks {
		if d.sink != nil {
			errs = append(errs, d.sink.Close())
			d.sink = nil
		}
		errs = append(errs, d.closeReader())
		if d.closeChain != nil {
			d.closeChain()
		}
	}
	return errors.Join(append(errs, os.RemoveAll(r.mark.Dir))...)
}

func (d *disk) closeReader() (err error) {
	if d.reader != nil {
		err = d.reader.Close()
		d.reader = nil
	}
	return err
}

// cluster is the unit of differs, in bytes.
func (d *disk) cluster() int64 { return d.chain.ClusterSize() }

// head is how many clusters the first MiB has.
func (d *disk) head() int64 {
	return (min(headBytes, d.then.VirtualSize) + d.cluster() - 1) / d.cluster()
}

// bytes are those of a number of clusters, at most the disk's size.
func (d *disk) bytes(clusters int64) int64 { return min(clusters*d.cluster(), d.then.VirtualSize) }
