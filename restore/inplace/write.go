package inplace

import (
	"context"
	"errors"
	"fmt"

	"github.com/virtbackup/virtbackup/flatten"
	"github.com/virtbackup/virtbackup/internal/bitset"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/qemuimg"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

// write is the second pass: it writes what differs. If it is killed at any step, another
// restore does all that is left to do.
func (r *run) write(ctx context.Context) error {
	// What is opened outlives the step, whose own context is cancelled at its end.
	within := func(do func(context.Context, *disk) error) func(context.Context) error {
		return r.onEachToWrite(func(_ context.Context, d *disk) error { return do(ctx, d) })
	}
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"begin", r.beginWriting},
		{"open", within(r.openTarget)},
		{"discard save", r.discardSave},
		{"zero heads", r.onEachToWrite(r.zeroHead)},
		{"resize", within(r.resize)},
		{"write", r.onEachToWrite(r.writeRest)},
		{"domain", r.changeDomain},
		{"write heads", r.onEachToWrite(r.writeHead)},
		{"close", r.closeTargets},
		{"note", r.noteConsistency},
		{"end", r.endWriting},
	} {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := fault.Around("in place: "+step.name, func() error { return step.do(ctx) }); err != nil {
			return err
		}
	}
	return nil
}

// onEachToWrite is a step that is done on all disks that differ, side by side.
func (r *run) onEachToWrite(do func(context.Context, *disk) error) func(context.Context) error {
	return func(ctx context.Context) error {
		disks := r.toWrite()
		return r.Limits.EachDisk(ctx, len(disks), func(ctx context.Context, i int) error {
			if err := do(ctx, disks[i]); err != nil {
				return fmt.Errorf("restore disk %s of domain %s: %w", disks[i].Target, r.Domain, err)
			}
			return nil
		})
	}
}

// toWrite are the disks that differ.
func (r *run) toWrite() (disks []*disk) {
	for _, d := range r.disks {
		if d.Bytes > 0 || d.resized {
			disks = append(disks, d)
		}
	}
	return disks
}

// beginWriting notes what a killed restore was at, and keeps the domain from starting with
// the host. It has not been started until now.
func (r *run) beginWriting(context.Context) error {
	if err := r.stillOff(); err != nil {
		return err
	}
	autostart, err := r.power.Autostart()
	if err != nil {
		return err
	}
	r.mark.Writing, r.mark.Autostart = true, r.mark.Autostart || autostart
	r.mark.Extras, r.mark.Disks = r.mark.Extras || len(r.extras) > 0, nil
	for _, d := range r.disks {
		r.mark.Disks = append(r.mark.Disks, d.Target)
	}
	if err := r.setMark(); err != nil {
		return err
	}
	if !autostart {
		return nil
	}
	return r.power.SetAutostart(false)
}

// abandon undoes what was done before anything of the domain was changed. What a killed restore
// has written before stays half written, and marked.
func (r *run) abandon() error {
	if r.result.Resumed {
		return nil
	}
	if r.mark.Writing {
		return r.endWriting(context.Background())
	}
	return r.lock.ClearMark(markBegun) // the other one, if there is one, is of another restore
}

// discardSave discards the memory of a domain that was saved. From now on there is no way
// back.
func (r *run) discardSave(context.Context) error {
	r.wrote = true
	if !r.Force {
		return nil
	}
	return r.power.RemoveManagedSave()
}

// noteConsistency notes that the disks hold a state that is crash consistent, or that they do not.
func (r *run) noteConsistency(context.Context) error {
	switch {
	case r.chosen.Consistency != manifest.ConsistencyFilesystem:
		return r.lock.SetDurableMark(repository.MarkPutBack, []byte(r.chosen.ID))
	case len(r.leftAlone()) > 0: // of which an earlier restore may have noted it
		return nil
	default:
		return r.lock.ClearMark(repository.MarkPutBack)
	}
}

// endWriting undoes beginWriting.
func (r *run) endWriting(context.Context) error {
	if r.mark.Autostart {
		if err := r.power.SetAutostart(true); err != nil {
			return err
		}
	}
	return r.clearMark()
}

// zeroHead makes zeros of the first MiB, as far as the disk has it. Where the point has data they
// are written, so that no space is freed that is needed again.
func (r *run) zeroHead(ctx context.Context, d *disk) error {
	var head bitset.Set
	for k := range min(d.head(), d.size/d.cluster()) {
		head.Add(k)
	}
	if err := flatten.CopyPart(ctx, d.chain, &head, zeroing{d.sink}, func(int64) {}); err != nil {
		return err
	}
	return d.sink.Flush()
}

// zeroing is a sink that stores zeros in place of data.
type zeroing struct{ target }

// Write is part of extent.Sink.
func (z zeroing) Write(offsets []int64, data []byte) error {
	return z.target.Write(offsets, directio.Buffer(len(data)))
}

// resize gives the disk the size that it had, where that is another one. No bitmap of ours
// shows what it cuts off or adds.
func (r *run) resize(ctx context.Context, d *disk) error {
	if !d.resized {
		return nil
	}
	if err := errors.Join(d.sink.Close(), d.closeReader()); err != nil {
		return err
	}
	d.sink = nil
	for _, name := range d.drop {
		if err := qemuimg.RemoveBitmap(d.Path, name); err != nil {
			return err
		}
	}
	if err := fault.Point("in place: bitmaps removed"); err != nil {
		return err
	}
	if err := qemuimg.Resize(d.Path, d.Format, d.then.VirtualSize); err != nil {
		return err
	}
	return r.reopen(ctx, d)
}

// reopen opens a disk again whose image was changed.
func (r *run) reopen(ctx context.Context, d *disk) (err error) {
	if err := r.examine(ctx, d, false); err != nil {
		return err
	}
	if d.size != d.then.VirtualSize {
		return fmt.Errorf("it has %d bytes after it was resized to %d", d.size, d.then.VirtualSize)
	}
	if d.seen, err = stateOf(d.Path); err != nil {
		return err
	}
	if d.Format == "raw" {
		if d.reader, err = r.startDaemon(ctx, false); err != nil {
			return err
		}
		if _, err := d.reader.Open(ctx, d.Target, d.images, false); err != nil {
			return err
		}
	}
	return r.openTarget(ctx, d)
}

// writeRest writes all that differs but for the first MiB.
func (r *run) writeRest(ctx context.Context, d *disk) error {
	var head bitset.Set
	for k := range d.head() {
		if d.differs.Has(k) {
			d.differs.Remove(k)
			head.Add(k)
		}
	}
	d.headSet = head
	return r.writePart(ctx, d, &d.differs)
}

// writeHead writes the first MiB.
func (r *run) writeHead(ctx context.Context, d *disk) error { return r.writePart(ctx, d, &d.headSet) }

func (r *run) writePart(ctx context.Context, d *disk, part *bitset.Set) error {
	before := d.done
	err := flatten.CopyPart(ctx, d.chain, part, limited{d.sink, ctx, r.Limits}, func(bytes int64) {
		r.Progress(Write, d.Target, min(before+bytes, d.Bytes), d.Bytes)
	})
	if err != nil {
		return err
	}
	d.done += d.bytes(part.Len())
	r.Progress(Write, d.Target, min(d.done, d.Bytes), d.Bytes)
	return d.sink.Flush()
}

// closeTargets closes what was written to.
func (r *run) closeTargets(ctx context.Context) error {
	if err := r.stillOff(); err != nil {
		return err
	}
	return r.onEachToWrite(func(_ context.Context, d *disk) error {
		err := d.sink.Close()
		d.sink = nil
		return err
	})(ctx)
}
