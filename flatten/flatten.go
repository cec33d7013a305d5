package flatten

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/virtbackup/virtbackup/extent"
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

// copier is one run of Copy.
type copier struct {
	chain   *chain.Chain
	sink    extent.Sink
	copied  func(bytes int64)
	batches chan []int64 // offsets of clusters with data
	bytes   atomic.Int64
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
	if err := sameClusters(images, sink); err != nil {
		return err
	}
	c := &copier{chain: images, sink: sink, copied: copied, batches: make(chan []int64, workers)}
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
	var batch []int64
	for i := range c.chain.Windows() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		w, err := c.chain.Window(i)
		if err != nil {
			return err
		}
		if w == nil {
			continue
		}
		if batch, err = c.planWindow(ctx, w, batch); err != nil {
			return err
		}
	}
	return c.send(ctx, batch)
}

// planWindow hands zeros to the sink and clusters with data to the workers, but
// for a batch that may go on in the next window. A batch ends before a cluster
// that begins a segment of its image, so that what was written by one batch of
// the backup is read by one.
func (c *copier) planWindow(ctx context.Context, w *chain.Window, batch []int64) ([]int64, error) {
	maxBatch := int(max(1, batchBytes/c.chain.ClusterSize()))
	for k := 0; k < w.Len(); {
		end, state := w.Run(k)
		if state == chain.Zero {
			if err := c.zero(w.At(k), min(w.At(end), c.chain.Size())); err != nil {
				return nil, err
			}
		}
		for ; k < end && state == chain.Data; k++ {
			if len(batch) == maxBatch || w.HostOffset(k)%batchBytes == 0 {
				if err := c.send(ctx, batch); err != nil {
					return nil, err
				}
				batch = nil
			}
			batch = append(batch, w.At(k))
		}
		k = end
	}
	return batch, nil
}

// send hands a batch to the workers.
func (c *copier) send(ctx context.Context, batch []int64) error {
	if len(batch) == 0 {
		return nil
	}
	select {
	case c.batches <- batch:
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
	for batch := range c.batches {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := fault.Point("flatten batch"); err != nil {
			return err
		}
		data := buf[:len(batch)*cluster]
		if err := reader.Read(data, batch); err != nil {
			return err
		}
		if err := c.sink.Write(batch, data); err != nil {
			return fmt.Errorf("store %d clusters from guest offset %d on: %w", len(batch), batch[0], err)
		}
		c.copied(c.bytes.Add(int64(len(data))))
	}
	return nil
}
