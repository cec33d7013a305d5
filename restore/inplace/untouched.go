package inplace

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/imagelock"
)

// fileState shows whether an image was written to.
type fileState struct {
	modified time.Time
	size     int64
	writes   string // to a block device, as the kernel counts them
}

// stateOf returns the state of a file or a block device.
func stateOf(path string) (fileState, error) {
	info, err := os.Stat(path)
	if err != nil {
		return fileState{}, err
	}
	if info.Mode().IsRegular() {
		return fileState{modified: info.ModTime(), size: info.Size()}, nil
	}
	if err := imagelock.WriteOut(path); err != nil {
		return fileState{}, err
	}
	writes, err := imagelock.Writes(info)
	return fileState{writes: writes}, err
}

// noteStates notes the states of all images, before the point of the present state is made.
func (r *run) noteStates() error {
	r.before = map[string]fileState{}
	for _, d := range r.disks {
		state, err := stateOf(d.Path)
		if err != nil {
			return err
		}
		r.before[d.Target] = state
	}
	return nil
}

// checkSaved sees that the disk is as the point of the present state has it: nobody has started
// the domain since.
func (r *run) checkSaved(ctx context.Context, d *disk) error {
	if r.saved == nil || r.result.Resumed {
		return nil
	}
	changed, known, err := r.changedByBitmap(ctx, d)
	if err != nil {
		return err
	}
	if !known {
		changed = d.seen != r.before[d.Target]
	}
	if changed {
		return fail.Errorf(fail.Other, "begin again", "disk %s of domain %s was written to after point %s was made of the present state", d.Target, r.Domain, r.saved.ID)
	}
	return nil
}

// changedByBitmap tells whether the disk was written to, by the bitmap of the point of the present
// state; known is false if it has none: what makes the point does not write to the disk then.
// One that was not stored, as QEMU was killed, has lost what it showed.
func (r *run) changedByBitmap(ctx context.Context, d *disk) (changed, known bool, err error) {
	images, err := d.readerDisk.Bitmaps(ctx)
	if err != nil {
		return false, false, err
	}
	for _, bitmaps := range images {
		for _, b := range bitmaps {
			if b.Name == r.saved.Checkpoint {
				changed, known = changed || b.Count > 0 || b.Inconsistent, true
			}
		}
	}
	return changed, known, nil
}

// unwritten returns an error if the disk was written to since pass one began.
func (d *disk) unwritten() error {
	now, err := stateOf(d.Path)
	if err == nil && now != d.seen {
		err = fmt.Errorf("image %s was written to while it was compared", d.Path)
	}
	return err
}
