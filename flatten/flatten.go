package flatten

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/virtbackup/virtbackup/extent"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/qcow2"
)

const (
	// batchBytes are read and written at once: the segments that the images of
	// backups were written in, whole ranges of their hash lists.
	batchBytes = 1 << 20

	// workers of one copy read and write side by side: while one waits for a
	// read, others hash or wait for a write.
	workers = 4
)

// copier copies what the images of a chain hold into a sink. Clusters that read
// as zeros are none of the images' data: those of backups were looked through
// when they were written.
type copier struct {
	chain   *qcow2.Chain
	sink    extent.Sink
	copied  func(bytes int64)
	batches chan []int64 // offsets of clusters with data
	bytes   atomic.Int64
}

// Copy copies what a chain holds into a sink, whose clusters have the chain's
// size: each cluster that an image has data for once, in the order of the disk
// but for what is copied side by side. It reads with four readers of 1 MiB each.
// copied is told the bytes of data that the sink has taken so far, from several
// goroutines. The first error ends the copy, and so does cancelling ctx; no
// goroutine is left when Copy returns.
func Copy(ctx context.Context, chain *qcow2.Chain, sink extent.Sink, copied func(bytes int64)) error {
	if err := sameClusters(chain, sink); err != nil {
		return err
	}
	c := &copier{chain: chain, sink: sink, copied: copied, batches: make(chan []int64, workers)}
	group, ctx := panics.WithContext(ctx)
	group.Go(func() error { return c.plan(ctx) })
	for range workers {
		group.Go(func() error { return c.run(ctx) })
	}
	return group.Wait()
}

// sameClusters refuses a sink of other clusters than the chain's.
func sameClusters(chain *qcow2.Chain, sink extent.Sink) error {
	if chain.ClusterSize() != int64(sink.ClusterSize()) {
		return fmt.Errorf("the chain has clusters of %d bytes, the sink has clusters of %d", chain.ClusterSize(), sink.ClusterSize())
	}
	return nil
}

// plan hands out the clusters with data, in the order of the disk. A batch ends
// before a cluster that begins a segment of its image, so that what was written
// by one batch of the backup is read by one.
func (c *copier) plan(ctx context.Context) error {
	defer close(c.batches)
	if err := fault.Point("flatten plan"); err != nil {
		return err
	}
	maxBatch := int(max(1, batchBytes/c.chain.ClusterSize()))
	var batch []int64
	send := func() error {
		if len(batch) == 0 {
			return nil
		}
		select {
		case c.batches <- batch:
			batch = nil
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	for i := range c.chain.Windows() {
		w, err := c.chain.Window(i)
		if err != nil {
			return err
		}
		if w == nil {
			continue
		}
		for k := range w.Len() {
			if !w.HasData(k) {
				continue
			}
			if len(batch) == maxBatch || w.HostOffset(k)%batchBytes == 0 {
				if err := send(); err != nil {
					return err
				}
			}
			batch = append(batch, w.At(k))
		}
	}
	return send()
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
