package nbdcopy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/virtbackup/virtbackup/extent"
)

// bufferSize is the size of a buffer and so of the largest write: smaller ones
// cost more calls, larger ones more memory, and 1 MiB is one range of the hash
// list.
const bufferSize = 1 << 20

// maxRequest is the size of the largest read. QEMU allocates memory for each
// request, and from 1 MiB on malloc takes that from the kernel and gives it back
// each time. Measured with qemu-nbd 7.2, 2 GiB from memory: requests of 1 MiB
// cost it 500,000 page faults and 1.8 times the processor time of 512 KiB (20,000
// faults); 256 KiB are no better than that, but twice as many calls.
const maxRequest = 512 << 10

// request is one read: guest bytes [offset, offset+length) into the batch's
// buffer at bufOffset.
type request struct {
	offset, length int64
	bufOffset      int
}

// batch is one buffer of whole clusters, read by as many requests as it has
// runs of neighbouring clusters.
type batch struct {
	buf      []byte    // the whole buffer; whoever holds the batch owns it
	requests []request // ascending
	offsets  []int64   // guest offset of each cluster in buf
	pending  int       // requests that have not completed
}

// planner turns extents into batches. Zero extents go to the sink at once.
type planner struct {
	extents *extents
	sink    extent.Sink
	pool    *pool
	limiter Limiter // nil: none
	out     chan<- *batch

	current *batch
	report  func(extent.Extent)
}

// run plans the whole disk and closes out. Cancelling ctx stops it.
func (p *planner) run(ctx context.Context) error {
	defer close(p.out)
	for {
		e, err := p.extents.next(ctx)
		if errors.Is(err, io.EOF) {
			return p.flush(ctx)
		}
		if err != nil {
			return err
		}
		switch e.Status {
		case extent.Data:
			err = p.add(ctx, e)
		case extent.Zero:
			zero := zeroRun{e.Offset, e.Length}
			err = zero.emit(p.sink)
		}
		if err != nil {
			return err
		}
		p.report(e)
	}
}

// add cuts a data extent into requests. Its offset is at a cluster boundary.
func (p *planner) add(ctx context.Context, e extent.Extent) error {
	for e.Length > 0 {
		if err := p.ensure(ctx); err != nil {
			return err
		}
		b := p.current
		at := len(b.offsets) * int(p.extents.cluster)
		n := min(e.Length, int64(len(b.buf)-at))
		b.append(e.Offset, n, at)
		for off := e.Offset; off < e.Offset+n; off += p.extents.cluster {
			b.offsets = append(b.offsets, off)
		}
		e.Offset += n
		e.Length -= n
		if len(b.offsets)*int(p.extents.cluster) == len(b.buf) {
			if err := p.flush(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// append adds a read of whole clusters, joined to the one before where they
// are neighbours, in requests of maxRequest at most. Dirty parts of one cluster
// are one read by then (see extents); reading across even one cluster that is
// not needed is not cheaper: with every other cluster a hole (BenchmarkReadScattered),
// bridging gaps of 64 KiB cost 20 % from memory and 3 % from a disk.
func (b *batch) append(offset, length int64, at int) {
	for length > 0 {
		n := min(length, maxRequest)
		if last := b.last(); last != nil && last.offset+last.length == offset && last.length < maxRequest {
			n = min(length, maxRequest-last.length)
			last.length += n
		} else {
			b.requests = append(b.requests, request{offset, n, at})
		}
		offset, length, at = offset+n, length-n, at+int(n)
	}
}

func (b *batch) last() *request {
	if len(b.requests) == 0 {
		return nil
	}
	return &b.requests[len(b.requests)-1]
}

// length is the number of guest bytes that the batch's requests read.
func (b *batch) length() (n int64) {
	for _, q := range b.requests {
		n += q.length
	}
	return n
}

// ensure waits for a free buffer if no batch is open.
func (p *planner) ensure(ctx context.Context) error {
	if p.current != nil {
		return nil
	}
	select {
	case buf := <-p.pool.free:
		p.current = &batch{buf: buf}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (p *planner) flush(ctx context.Context) error {
	b := p.current
	if b == nil || len(b.offsets) == 0 {
		return nil
	}
	p.current = nil
	b.pending = len(b.requests)
	if p.limiter != nil {
		if err := p.limiter.WaitN(ctx, int(b.length())); err != nil {
			return cmp.Or(context.Cause(ctx), err)
		}
	}
	select {
	case p.out <- b:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// store hands a filled batch to the sink: its all-zero clusters as zeros,
// neighbours joined, the rest as data, moved together within the buffer.
// It returns the bytes stored as data.
func (b *batch) store(sink extent.Sink, cluster int, size int64) (int64, error) {
	b.padTail(cluster, size)
	kept := 0
	var zero zeroRun
	for i, off := range b.offsets {
		p := b.buf[i*cluster : (i+1)*cluster]
		if isZero(p) {
			if err := zero.join(sink, off, min(int64(cluster), size-off)); err != nil {
				return 0, err
			}
			continue
		}
		if kept != i {
			copy(b.buf[kept*cluster:], p)
		}
		b.offsets[kept] = off
		kept++
	}
	if err := zero.emit(sink); err != nil || kept == 0 {
		return 0, err
	}
	if err := sink.Write(b.offsets[:kept], b.buf[:kept*cluster]); err != nil {
		return 0, fmt.Errorf("store %d clusters from guest offset %d on: %w", kept, b.offsets[0], err)
	}
	return int64(kept * cluster), nil
}

// padTail zeroes what the disk's last cluster has beyond the disk's end: the
// buffer holds older data there.
func (b *batch) padTail(cluster int, size int64) {
	last := len(b.offsets) - 1
	if have := size - b.offsets[last]; have < int64(cluster) {
		clear(b.buf[last*cluster+int(have) : (last+1)*cluster])
	}
}

// zeroRun is a run of zeros on its way to the sink.
type zeroRun struct{ offset, length int64 }

// join lengthens the run, or hands it to the sink and starts another.
func (z *zeroRun) join(sink extent.Sink, offset, length int64) error {
	if z.length > 0 && z.offset+z.length == offset {
		z.length += length
		return nil
	}
	err := z.emit(sink)
	*z = zeroRun{offset, length}
	return err
}

// emit hands the run to the sink.
func (z *zeroRun) emit(sink extent.Sink) error {
	if z.length == 0 {
		return nil
	}
	if err := sink.Zero(z.offset, z.length); err != nil {
		return fmt.Errorf("store %d bytes of zeros at guest offset %d: %w", z.length, z.offset, err)
	}
	return nil
}
