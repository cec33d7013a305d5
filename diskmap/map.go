// Package diskmap tells where the disks of a point have data and zeros, and what of it the point
// itself has changed.
package diskmap

import (
	"context"

	"github.com/virtbackup/virtbackup/extent"
	"github.com/virtbackup/virtbackup/qcow2/chain"
)

// Extent is a run of bytes of a disk that are alike: data or zeros, and said by the point's own
// image or by those below it.
type Extent struct {
	extent.Extent
	// Changed: the point's own image has it. Always true for data in the first point of a chain.
	Changed bool
}

// Each calls do with the extents of a disk in their order, which cover it; neighbours differ.
// Cancelling ctx stops it.
func Each(ctx context.Context, images *chain.Chain, do func(Extent) error) error {
	var open Extent
	add := func(end int64, status extent.Status, changed bool) error {
		if open.Length > 0 && (open.Status != status || open.Changed != changed) {
			if err := do(open); err != nil {
				return err
			}
			open = Extent{Extent: extent.Extent{Offset: open.End()}}
		}
		open.Status, open.Changed, open.Length = status, changed, end-open.Offset
		return nil
	}
	for i := range images.Windows() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		w, err := images.Window(i)
		if err != nil {
			return err
		}
		if w == nil {
			if err := add(min((i+1)*images.WindowSize(), images.Size()), extent.Zero, false); err != nil {
				return err
			}
			continue
		}
		for k := range w.Len() {
			status := extent.Zero
			if w.State(k) == chain.Data {
				status = extent.Data
			}
			if err := add(min(w.At(k+1), images.Size()), status, w.InTop(k)); err != nil {
				return err
			}
		}
	}
	if open.Length == 0 { // a disk without a byte
		return nil
	}
	return do(open)
}

// Sums are bytes of a disk, or of a part of it.
type Sums struct {
	Data    int64 `json:"data_bytes"`
	Changed int64 `json:"changed_bytes"` // data or zeros that the point's own image has
}

func (s *Sums) add(e Extent, length int64) {
	if e.Status == extent.Data {
		s.Data += length
	}
	if e.Changed {
		s.Changed += length
	}
}

// Survey is what a disk has as a whole, and in parts of equal length.
type Survey struct {
	Sums
	Bucket  int64 // bytes of a part; the last one may have fewer
	Buckets []Sums
}

// Look surveys a disk in at most n parts of whole clusters.
func Look(ctx context.Context, images *chain.Chain, n int) (Survey, error) {
	clusters := (images.Size() + images.ClusterSize() - 1) / images.ClusterSize()
	s := Survey{Bucket: max(1, (clusters+int64(n)-1)/int64(n)) * images.ClusterSize()}
	s.Buckets = make([]Sums, (images.Size()+s.Bucket-1)/s.Bucket)
	err := Each(ctx, images, func(e Extent) error {
		s.Sums.add(e, e.Length)
		for at := e.Offset; at < e.End(); {
			end := min(e.End(), (at/s.Bucket+1)*s.Bucket)
			s.Buckets[at/s.Bucket].add(e, end-at)
			at = end
		}
		return nil
	})
	return s, err
}
