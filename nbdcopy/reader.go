//go:build cgo

package nbdcopy

import (
	"context"
	"fmt"

	"github.com/virtbackup/virtbackup/internal/fault"
)

// maxBytes in flight on one connection, besides the number of requests: what
// QEMU has read ahead should still be in the processor's cache when it is sent,
// and the writers need buffers, too. Measured with two connections: 2 to 8 MiB
// read equally fast. Nor does less spare the guest: the largest gap between its commits
// was the same, 130 to 190 ms, from two requests in flight in all to sixteen. Only one at
// a time left it as without a backup (docs/performance.md), and that is 20 % slower from
// memory, and bound by the latency of a storage behind a network.
const maxBytes = 4 << 20

// reader fills batches over one connection.
type reader struct {
	conn     *conn
	requests int // in flight at most
	in       <-chan *batch
	out      chan<- *batch // has room for every batch there can be

	// Requests sent and not completed, and their bytes. Another batch is sent
	// only below both limits, so neither is passed by more than one batch.
	inFlight int
	bytes    int64

	done     []*batch // completed, not handed on
	failed   error    // of the first request that failed
	failedAt request
}

// run reads batches until in is closed and all have been handed on. It returns
// with requests in flight only on an error; close the connection then, before
// the buffers are released.
func (r *reader) run(ctx context.Context) error {
	open := true
	for open || r.inFlight > 0 {
		var err error
		if open, err = r.fill(ctx, open); err != nil {
			return err
		}
		if err := r.drain(ctx); err != nil {
			return err
		}
	}
	return nil
}

// fill sends requests until there are enough in flight or no batch is waiting.
// It waits for a batch only if nothing is in flight: else poll comes first.
func (r *reader) fill(ctx context.Context, open bool) (bool, error) {
	for open && r.inFlight < r.requests && r.bytes < maxBytes {
		b, ok, err := r.take(ctx)
		if err != nil || !ok {
			return false, err
		}
		if b == nil {
			return true, nil
		}
		if err := r.send(b); err != nil {
			return false, err
		}
	}
	return open, nil
}

// take returns the next batch; nil if none is there now; false if none will be.
func (r *reader) take(ctx context.Context) (*batch, bool, error) {
	if r.inFlight > 0 {
		select {
		case b, ok := <-r.in:
			return b, ok, nil
		default:
			return nil, true, nil
		}
	}
	select {
	case b, ok := <-r.in:
		return b, ok, nil
	case <-ctx.Done():
		return nil, false, context.Cause(ctx)
	}
}

func (r *reader) send(b *batch) error {
	for _, q := range b.requests {
		p := b.buf[q.bufOffset : q.bufOffset+int(q.length)]
		if err := r.conn.read(p, q.offset, func(err error) { r.complete(b, q, err) }); err != nil {
			return r.explain(q, err)
		}
		r.inFlight++
		r.bytes += q.length
	}
	return nil
}

// complete is called from within poll. It must not call libnbd: the handle is
// locked.
func (r *reader) complete(b *batch, q request, err error) {
	if err == nil {
		err = fault.Point("reply")
	}
	r.inFlight--
	r.bytes -= q.length
	b.pending--
	if err != nil && r.failed == nil {
		r.failed, r.failedAt = err, q
	}
	if b.pending == 0 {
		r.done = append(r.done, b)
	}
}

// drain polls once and hands on what is complete.
func (r *reader) drain(ctx context.Context) error {
	if r.inFlight > 0 {
		if err := r.poll(ctx); err != nil {
			return err
		}
	}
	if r.failed != nil {
		return r.explain(r.failedAt, r.failed)
	}
	for _, b := range r.done {
		r.out <- b
	}
	r.done = r.done[:0]
	return nil
}

// poll polls once. A connection that breaks completes all requests, the oldest
// first, with an error that says less than poll's.
func (r *reader) poll(ctx context.Context) error {
	err := r.conn.poll(ctx)
	switch {
	case err == nil || ctx.Err() != nil:
		return err
	case r.failed != nil:
		return r.explain(r.failedAt, err)
	}
	return fmt.Errorf("read from %s: %w", r.conn.name, err)
}

func (r *reader) explain(q request, err error) error {
	return fmt.Errorf("read %d bytes at offset %d of %s: %w", q.length, q.offset, r.conn.name, err)
}

// readBatch reads all that the batch asks for and waits for it. After an error
// there may be requests in flight.
func (c *conn) readBatch(ctx context.Context, b *batch) error {
	r := &reader{conn: c, out: make(chan *batch, 1)}
	if err := r.send(b); err != nil {
		return err
	}
	for r.inFlight > 0 {
		if err := r.drain(ctx); err != nil {
			return err
		}
	}
	return nil
}
