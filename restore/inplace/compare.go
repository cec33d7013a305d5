package inplace

import (
	"context"
	"fmt"
	"sync"

	"github.com/virtbackup/virtbackup/flatten"
	"github.com/virtbackup/virtbackup/internal/bitset"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/limit"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/nbdcopy"
)

// compare finds out what differs, disk by disk, and proves all that will be written. It
// writes nothing.
func (r *run) compare(ctx context.Context) error {
	if err := fault.Point("in place: compare"); err != nil {
		return err
	}
	points, err := r.bitmapPoints()
	if err != nil {
		return err
	}
	return r.Limits.EachDisk(ctx, len(r.disks), func(ctx context.Context, i int) error {
		d := r.disks[i]
		if err := r.compareDisk(ctx, d, points); err != nil {
			return fmt.Errorf("compare disk %s of domain %s with %s: %w", d.Target, r.Domain, r.chosen.ID, err)
		}
		return nil
	})
}

func (r *run) compareDisk(ctx context.Context, d *disk, points []manifest.Manifest) error {
	known, err := r.byBitmap(ctx, d, points)
	if fail.Is(err, fail.Damaged) { // it may be another point's; if it is this one's, it is met again
		r.Log.Info(fmt.Sprintf("disk %s is compared in full: %v", d.Target, err))
		known, err, d.differs = false, nil, bitset.Set{}
	}
	if err != nil {
		return err
	}
	if known {
		err = r.sieve(ctx, d)
	} else {
		d.Method, d.By = MethodCompare, "compared in full: no bitmap shows what has changed"
		d.differs, err = r.read(ctx, d, nil)
	}
	if err != nil {
		return err
	}
	d.addGrowth()
	if d.differs.Len() == 0 && !d.resized {
		return nil
	}
	for k := range d.head() {
		d.differs.Add(k)
	}
	d.Bytes = d.bytes(d.differs.Len())
	return r.prove(ctx, d)
}

// sieve leaves, of the clusters that may differ, those that do. A bitmap has what was written, and
// that may be what was there; the images between two points have what was changed and changed back.
func (r *run) sieve(ctx context.Context, d *disk) (err error) {
	d.differs, err = r.read(ctx, d, &d.differs)
	return err
}

// read reads the disk, or some clusters of it, and the point's clusters where the disk has data, and
// returns which differ.
func (r *run) read(ctx context.Context, d *disk, only *bitset.Set) (differs bitset.Set, err error) {
	export, err := d.export(ctx, nbdcopy.Source{})
	if err != nil {
		return differs, err
	}
	defer export.Close()
	comparer, err := flatten.Compare(d.chain, &marker{differs: &differs, cluster: d.cluster()})
	if err != nil {
		return differs, err
	}
	_, err = export.Copy(ctx, comparer, nbdcopy.Options{Only: only, Limiter: r.Limits, Progress: func(p nbdcopy.Progress) {
		r.Progress(Compare, d.Target, p.Position, p.Size)
	}})
	return differs, err
}

// export opens the reader's export of the disk.
func (d *disk) export(ctx context.Context, from nbdcopy.Source) (*nbdcopy.Export, error) {
	if !d.exported {
		if err := d.readerDisk.Export(ctx, from.Bitmap, false); err != nil {
			return nil, err
		}
		d.exported = true
	}
	from.Socket, from.Export = d.reader.Socket(), d.Target
	return nbdcopy.Open(ctx, from)
}

// addGrowth adds what the disk lacks at its end: it reads as zeros once it has been made
// longer, or as what a backing file has there.
func (d *disk) addGrowth() {
	for at := d.size / d.cluster() * d.cluster(); at < d.then.VirtualSize; at += d.cluster() {
		if at+d.cluster() > d.size {
			d.differs.Add(at / d.cluster())
		}
	}
	for k := (d.then.VirtualSize + d.cluster() - 1) / d.cluster(); ; k++ { // what a shorter disk cuts off
		if k = d.differs.Next(k); k < 0 {
			return
		}
		d.differs.Remove(k)
	}
}

// prove reads all clusters that will be written, so that they are compared with their hashes
// before the first write.
func (r *run) prove(ctx context.Context, d *disk) error {
	return flatten.CopyPart(ctx, d.chain, &d.differs, discard{ctx, d.cluster(), r.Limits}, func(int64) {})
}

// marker is a sink that notes which clusters it is told.
type marker struct {
	cluster int64
	mu      sync.Mutex
	differs *bitset.Set
}

// ClusterSize is part of extent.Sink.
func (m *marker) ClusterSize() int { return int(m.cluster) }

// Write is part of extent.Sink.
func (m *marker) Write(offsets []int64, _ []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, offset := range offsets {
		m.differs.Add(offset / m.cluster)
	}
	return nil
}

// Zero is part of extent.Sink.
func (m *marker) Zero(offset, length int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k := offset / m.cluster; k*m.cluster < offset+length; k++ {
		m.differs.Add(k)
	}
	return nil
}

// discard is a sink that keeps nothing, at a limited rate.
type discard struct {
	ctx     context.Context
	cluster int64
	limits  *limit.Limits
}

// ClusterSize is part of extent.Sink.
func (d discard) ClusterSize() int { return int(d.cluster) }

// Write is part of extent.Sink.
func (d discard) Write(_ []int64, data []byte) error { return d.limits.WaitN(d.ctx, len(data)) }

// Zero is part of extent.Sink.
func (discard) Zero(int64, int64) error { return nil }
