package restore

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/qcow2"
)

const (
	// batchBytes are read and written at once: the segments that the images of
	// backups were written in, whole ranges of their hash lists.
	batchBytes = 1 << 20

	// flatteners of one disk read and write side by side: while one waits for a
	// read, others hash or wait for a write.
	flatteners = 4
)

// sink takes the clusters of the restored image; *qcow2.Writer is one.
type sink interface {
	// Write stores whole clusters at their offsets on the disk, in bytes. It is
	// called by several goroutines.
	Write(offsets []int64, data []byte) error
}

// flattener copies what the images of a chain hold into one. Clusters that read
// as zeros are none of the images' data: those of backups were looked through
// when they were written.
type flattener struct {
	chain   *qcow2.Chain
	sink    sink
	copied  func(bytes int64) // is told all that was copied so far
	batches chan []int64      // offsets of clusters with data
	bytes   atomic.Int64
}

// flatten copies a chain into a sink. The first error ends it.
func flatten(ctx context.Context, chain *qcow2.Chain, sink sink, copied func(bytes int64)) error {
	f := &flattener{chain: chain, sink: sink, copied: copied, batches: make(chan []int64, flatteners)}
	group, ctx := panics.WithContext(ctx)
	group.Go(func() error { return f.plan(ctx) })
	for range flatteners {
		group.Go(func() error { return f.run(ctx) })
	}
	return group.Wait()
}

// plan hands out the clusters with data, in the order of the disk. A batch ends
// before a cluster that begins a segment of its image, so that what was written
// by one batch of the backup is read by one.
func (f *flattener) plan(ctx context.Context) error {
	defer close(f.batches)
	if err := fault.Point("restore plan"); err != nil {
		return err
	}
	most := int(max(1, batchBytes/f.chain.ClusterSize()))
	var batch []int64
	send := func() error {
		if len(batch) == 0 {
			return nil
		}
		select {
		case f.batches <- batch:
			batch = nil
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	for i := range f.chain.Windows() {
		w, err := f.chain.Window(i)
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
			if len(batch) == most || w.HostOffset(k)%batchBytes == 0 {
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
func (f *flattener) run(ctx context.Context) error {
	reader := f.chain.NewReader()
	cluster := int(f.chain.ClusterSize())
	buf := directio.Buffer(max(batchBytes, cluster))
	for batch := range f.batches {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := fault.Point("restore batch"); err != nil {
			return err
		}
		data := buf[:len(batch)*cluster]
		if err := reader.Read(data, batch); err != nil {
			return err
		}
		if err := f.sink.Write(batch, data); err != nil {
			return fmt.Errorf("store %d clusters from guest offset %d on: %w", len(batch), batch[0], err)
		}
		f.copied(f.bytes.Add(int64(len(data))))
	}
	return nil
}
