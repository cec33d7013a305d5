package flatten

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/virtbackup/virtbackup/extent"
	"github.com/virtbackup/virtbackup/internal/bitset"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/qcow2/chain"
)

const (
	// batchBytes are read and written at once: the segments that the images of
	// backups were written in, whole ranges of their hash lists.
	batchBytes = 1 << 20

	// workers of one copy read and write side by side: while one waits for a
	// read, others hash or wait for a write.
	workers = 4
)

// copier is one run of Copy, CopyFrames or CopyPart.
type copier struct {
	chain   *chain.Chain
	sink    extent.Sink
	frames  FrameSink   // the sink, if it takes frames; nil: all clusters are unpacked
	only    *bitset.Set // the clusters to copy; nil: all of which an image says something
	copied  func(bytes int64)
	batches chan batch
	bytes   atomic.Int64

	plain, packed batch // being collected
}

// batch is clusters with data that one worker copies.
type batch struct {
	offsets []int64
	packed  bool // they are compressed, and the sink takes frames
}

// Copy copies what the images of a chain say into a sink, whose clusters have the
// chain's size: data by Write, and zeros that hide what is below by Zero, each
// cluster once. Of what no image says anything, the sink is told nothing.
//
//	base    |aaaa|bbbb|    |cccc|    |
//	above   |    |xxxx|    |zero|    |
//	sink    |aaaa|xxxx|    |zero|    |
//
// A sink that reads as zeros where nothing was stored may so drop Zero, if the
// chain begins with its base; one that is chained onto what is below the chain
// must not. Data that happens to be zeros stays data: images of backups have none.
//
// Clusters come in the order of the disk, but for what four readers copy side by
// side, each in memory of 1 MiB. copied is told the bytes of data that the sink
// has taken so far, from several goroutines. The first error ends the copy, and so
// does cancelling ctx; no goroutine is left when Copy returns.
func Copy(ctx context.Context, images *chain.Chain, sink extent.Sink, copied func(bytes int64)) error {
	c := &copier{chain: images, sink: sink, copied: copied}
	return c.copy(ctx)
}

func (c *copier) copy(ctx context.Context) error {
	if err := sameClusters(c.chain, c.sink); err != nil {
		return err
	}
	c.batches = make(chan batch, workers)
	c.packed.packed = true
	group, ctx := panics.WithContext(ctx)
	group.Go(func() error {
		defer close(c.batches)
		return c.plan(ctx)
	})
	for range workers {
		group.Go(func() error { return c.run(ctx) })
	}
	return group.Wait()
}

// sameClusters refuses a sink of other clusters than the chain's.
func sameClusters(images *chain.Chain, sink extent.Sink) error {
	if images.ClusterSize() != int64(sink.ClusterSize()) {
		return fmt.Errorf("the chain has clusters of %d bytes, the sink has clusters of %d", images.ClusterSize(), sink.ClusterSize())
	}
	return nil
}

// plan looks at the windows in the order of the disk. One that no image says
// anything of costs nothing.
func (c *copier) plan(ctx context.Context) error {
	if err := fault.Point("flatten plan"); err != nil {
		return err
	}
	for i := range c.chain.Windows() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := c.planOne(ctx, i); err != nil {
			return err
		}
	}
	return c.send(ctx, &c.plain)
}

// planOne plans window i.
func (c *copier) planOne(ctx context.Context, i int64) error {
	if c.only != nil {
		perWindow := c.chain.WindowSize() / c.chain.ClusterSize()
		if next := c.only.Next(i * perWindow); next < 0 || next >= (i+1)*perWindow {
			return nil
		}
	}
	w, err := c.chain.Window(i)
	switch {
	case err != nil:
		return err
	case c.only != nil:
		return c.planPart(ctx, i, w)
	case w == nil:
		return nil
	}
	return c.planWindow(ctx, w)
}

// planWindow hands zeros to the sink and clusters with data to the workers, but
// for a batch that may go on in the next window.
func (c *copier) planWindow(ctx context.Context, w *chain.Window) error {
	for k := 0; k < w.Len(); {
		end, state := w.Run(k)
		if state == chain.Zero {
			if err := c.zero(w.At(k), min(w.At(end), c.chain.Size())); err != nil {
				return err
			}
		}
		for ; k < end && state == chain.Data; k++ {
			if err := c.add(ctx, w, k); err != nil {
				return err
			}
		}
		k = end
	}
	return c.send(ctx, &c.packed)
}

// add adds a cluster with data to a batch. One of plain clusters ends before a cluster
// that begins a segment of its image, so that what was written by one batch of the backup
// is read by one.
func (c *copier) add(ctx context.Context, w *chain.Window, k int) error {
	b, full := &c.plain, w.HostOffset(k)%batchBytes == 0
	if c.frames != nil && w.Compressed(k) {
		b, full = &c.packed, false
	}
	if full || len(b.offsets) == int(max(1, batchBytes/c.chain.ClusterSize())) {
		if err := c.send(ctx, b); err != nil {
			return err
		}
	}
	b.offsets = append(b.offsets, w.At(k))
	return nil
}

// send hands a batch to the workers, and leaves it empty.
func (c *copier) send(ctx context.Context, b *batch) error {
	if len(b.offsets) == 0 {
		return nil
	}
	full := *b
	b.offsets = nil
	select {
	case c.batches <- full:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// zero hands the zeros between two offsets to the sink.
func (c *copier) zero(offset, end int64) error {
	if err := c.sink.Zero(offset, end-offset); err != nil {
		return fmt.Errorf("store %d bytes of zeros at guest offset %d: %w", end-offset, offset, err)
	}
	return nil
}

// run copies batches until there are no more.
func (c *copier) run(ctx context.Context) error {
	reader := c.chain.NewReader()
	cluster := int(c.chain.ClusterSize())
	buf := directio.Buffer(max(batchBytes, cluster))
	for b := range c.batches {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := fault.Point("flatten batch"); err != nil {
			return err
		}
		offsets := b.offsets
		if b.packed {
			var err error
			if offsets, err = c.copyFrames(reader, offsets); err != nil {
				return err
			}
		}
		if err := c.copyData(reader, offsets, buf); err != nil {
			return err
		}
		c.copied(c.bytes.Add(int64(len(b.offsets) * cluster)))
	}
	return nil
}

// copyData copies clusters as the guest sees them.
func (c *copier) copyData(reader *chain.Reader, offsets []int64, buf []byte) error {
	if len(offsets) == 0 {
		return nil
	}
	data := buf[:len(offsets)*int(c.chain.ClusterSize())]
	if err := reader.Read(data, offsets); err != nil {
		return err
	}
	if err := c.sink.Write(offsets, data); err != nil {
		return fmt.Errorf("store %d clusters from guest offset %d on: %w", len(offsets), offsets[0], err)
	}
	return nil
}
