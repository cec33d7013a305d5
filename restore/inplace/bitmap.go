package inplace

import (
	"cmp"
	"context"
	"slices"

	"github.com/virtbackup/virtbackup/diskimage"
	"github.com/virtbackup/virtbackup/flatten"
	"github.com/virtbackup/virtbackup/guest/shutoff"
	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/internal/bitset"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/nbdcopy"
	"github.com/virtbackup/virtbackup/qcow2/chain"
	"github.com/virtbackup/virtbackup/source"
	"github.com/virtbackup/virtbackup/source/localimage"
)

// bitmapPoints are the points that may have a bitmap, in the order in which they are tried:
// the point itself, those after it, oldest first, and those before it, newest first. What a
// bitmap since one before it shows includes what had changed before the point.
func (r *run) bitmapPoints() (points []manifest.Manifest, err error) {
	lineage, err := r.Repository.Lineage(r.Domain)
	if err != nil {
		return nil, err
	}
	ledger, err := r.Repository.Ledger(r.Domain)
	if err != nil {
		return nil, err
	}
	for _, m := range lineage.Points {
		i, ok := ledger.Find(m.Identity)
		if ok && m.Checkpoint != "" && i.State != instants.Retired && i.Point == m.ID && i.CheckpointName() == m.Checkpoint {
			points = append(points, m)
		}
	}
	at := r.chosen.Number()
	rank := func(m manifest.Manifest) int {
		if m.Number() >= at {
			return m.Number() - at
		}
		return 1<<30 + at - m.Number()
	}
	slices.SortFunc(points, func(a, b manifest.Manifest) int { return cmp.Compare(rank(a), rank(b)) })
	return points, nil
}

// byBitmap finds what differs by a bitmap: all that was written since some point Q, and all
// that the images say in which the point and Q differ.
//
//	common images   |aaaa|bbbb|cccc|dddd|
//	of the point    |xxxx|    |    |    |
//	of Q            |    |yyyy|    |    |
//	bitmap since Q  |    |    |####|    |
//	may differ      |####|####|####|    |
//
// known is false if there is no such bitmap.
func (r *run) byBitmap(ctx context.Context, d *disk, points []manifest.Manifest) (known bool, err error) {
	if d.Format != "qcow2" || d.now.Shareable || d.size != d.then.VirtualSize {
		return false, nil
	}
	mine, err := r.Repository.Links(r.Domain, r.chosen.ID, d.Target)
	if err != nil {
		return false, err
	}
	for _, q := range points {
		qd, ok := q.Disk(d.Target)
		layers := shutoff.Layers(d.images, q.Checkpoint)
		if !ok || layers == 0 || qd.VirtualSize > d.size || d.replaced(q, qd) {
			continue
		}
		theirs, err := r.Repository.LinksOf(q, qd)
		if err != nil || theirs[0].Path != mine[0].Path {
			continue // damage there is no matter of this point
		}
		return r.since(ctx, d, q, qd, mine, theirs, layers)
	}
	return false, nil
}

// replaced tells whether the disk's images are others than at a point, so that the bitmap since
// the point does not show all that differs.
func (d *disk) replaced(q manifest.Manifest, qd manifest.Disk) bool {
	then, now := source.Image{Source: qd.Source, ID: qd.SourceID}, localimage.Images(d.now.Source, d.images)
	return source.Replaced(then, now) != "" || source.Rebased(then, qd.SourceBackingIDs, now) != "" || source.Lost(then, now, q.Checkpoint) != ""
}

// since finds what differs by the bitmap of a point q.
func (r *run) since(ctx context.Context, d *disk, q manifest.Manifest, qd manifest.Disk, mine, theirs []diskimage.Link, layers int) (known bool, err error) {
	bitmap, err := d.readerDisk.Merge(ctx, q.Checkpoint, layers, shutoff.Granularity(d.images, q.Checkpoint, layers))
	if err != nil {
		return false, err
	}
	export, err := d.export(ctx, nbdcopy.Source{Bitmap: bitmap})
	if err != nil {
		return false, err
	}
	defer export.Close()
	if err := d.addDirty(ctx, export, qd.VirtualSize); err != nil {
		return false, err
	}
	common := 0
	for common < min(len(mine), len(theirs)) && mine[common].Path == theirs[common].Path {
		common++
	}
	for _, links := range [][]diskimage.Link{mine[common:], theirs[common:]} {
		if err := r.addSaid(ctx, d, links); err != nil {
			return false, err
		}
	}
	changed, err := r.tailChanged(ctx, theirs, export)
	if err != nil || changed {
		d.differs = bitset.Set{}
		return false, err
	}
	d.Method, d.By = MethodBitmap, "by the bitmap since "+q.ID
	return true, nil
}

// addDirty adds the clusters that a bitmap has, and those behind the size that the disk had
// when the bitmap began.
func (d *disk) addDirty(ctx context.Context, export *nbdcopy.Export, covered int64) error {
	for at := int64(0); at < d.size; at += d.chain.WindowSize() {
		clean, err := export.CleanClusters(ctx, at, min(at+d.chain.WindowSize(), d.size), d.cluster())
		if err != nil {
			return err
		}
		for k, is := range clean {
			if offset := at + int64(k)*d.cluster(); !is || offset+d.cluster() > covered {
				d.differs.Add(offset / d.cluster())
			}
		}
	}
	return nil
}

// addSaid adds the clusters that images say something of, which are chained onto common ones.
func (r *run) addSaid(ctx context.Context, d *disk, links []diskimage.Link) error {
	if len(links) == 0 {
		return nil
	}
	images, _, closeImages, err := diskimage.OpenChain(ctx, links, hashlist.ReadOptions{Warn: r.point.Warn})
	if err != nil {
		return err
	}
	defer closeImages()
	for i := range images.Windows() {
		w, err := images.Window(i)
		if err != nil {
			return err
		}
		if w == nil {
			continue
		}
		for k := 0; k < w.Len(); {
			end, state := w.Run(k)
			for ; k < end && state != chain.Absent; k++ {
				d.differs.Add(w.At(k) / d.cluster())
			}
			k = end
		}
	}
	return nil
}

// tailChanged tells whether the disk was made shorter and longer again since a point, which
// no bitmap shows.
func (r *run) tailChanged(ctx context.Context, links []diskimage.Link, export *nbdcopy.Export) (bool, error) {
	images, _, closeImages, err := diskimage.OpenChain(ctx, links, hashlist.ReadOptions{Warn: r.point.Warn})
	if err != nil {
		return false, err
	}
	defer closeImages()
	_, changed, err := flatten.TailChanged(ctx, images, export)
	return changed, err
}
