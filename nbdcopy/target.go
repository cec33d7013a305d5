//go:build cgo

package nbdcopy

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"libguestfs.org/libnbd"

	"github.com/virtbackup/virtbackup/extent"
)

// maxZero is the length of the largest request for zeros, in bytes: below 4 GiB, as the
// protocol has it, and no longer than a server that writes them out takes some seconds for.
const maxZero = 128 << 20

// TargetOptions say how an export is written to.
type TargetOptions struct {
	// ClusterSize is the unit of Write's offsets, in bytes: a power of two from 512 to 1 MiB.
	ClusterSize int
	// Connections is how many calls of Write and Zero are served at once, 0 means 4. Each
	// takes 1 MiB of memory.
	Connections int
	// Allocate keeps the space that zeros take (NBD_CMD_FLAG_NO_HOLE). Without it the
	// server is free to punch holes.
	Allocate bool
}

func (o TargetOptions) withDefaults() (TargetOptions, error) {
	if o.ClusterSize < 512 || o.ClusterSize > bufferSize || o.ClusterSize&(o.ClusterSize-1) != 0 {
		return o, fmt.Errorf("cluster size %d is no power of two from 512 to %d", o.ClusterSize, bufferSize)
	}
	if o.Connections < 0 {
		return o, fmt.Errorf("negative option: %d connections", o.Connections)
	}
	if o.Connections == 0 {
		o.Connections = 4
	}
	return o, nil
}

// Target is an export that is written to. It is an [extent.Sink]: each call sends its
// requests over a connection that nobody else uses meanwhile, all of them at once, and
// returns when the server has answered all. So errors belong to the call that caused them,
// and as many calls are served side by side as there are connections.
//
// What was written is on stable storage only after Flush. After an error the target stays
// failed: each later call, Flush included, returns that error.
type Target struct {
	ctx            context.Context
	socket, export string
	options        TargetOptions
	size           int64
	pool           *pool
	idle           chan *writer // those that no call uses

	mu     sync.Mutex
	failed error // the first error
}

var _ extent.Sink = (*Target)(nil)

// OpenTarget connects to an export and checks that it can be written to, zeroed and
// flushed. Cancelling ctx stops the calls of the target, too; those that are under way may
// then have been carried out, or not. The caller closes the Target. Errors name the export and the
// socket.
func OpenTarget(ctx context.Context, socket, export string, o TargetOptions) (_ *Target, err error) {
	if o, err = o.withDefaults(); err != nil {
		return nil, err
	}
	t := &Target{ctx: ctx, socket: socket, export: export, options: o, idle: make(chan *writer, o.Connections)}
	if t.pool, err = newPool(o.Connections, bufferSize); err != nil {
		return nil, err
	}
	for range o.Connections {
		t.idle <- &writer{buf: <-t.pool.free}
	}
	first := <-t.idle
	err = first.connect(t)
	if err == nil {
		err = t.check(first.conn)
	}
	t.idle <- first
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// check finds out the size, and what the server can do.
func (t *Target) check(c *conn) (err error) {
	if t.size, err = c.size(); err != nil {
		return err
	}
	for _, need := range []struct {
		what  string
		ask   func() (bool, error)
		wrong bool
	}{
		{"is read-only", c.h.IsReadOnly, true},
		{"cannot be zeroed", c.h.CanZero, false},
		{"cannot be flushed", c.h.CanFlush, false},
	} {
		can, err := need.ask()
		if err != nil {
			return fmt.Errorf("ask what %s can do: %w", c.name, reason(err))
		}
		if can == need.wrong {
			return fmt.Errorf("%s %s", c.name, need.what)
		}
	}
	return nil
}

// Size is the size of the disk in bytes.
func (t *Target) Size() int64 { return t.size }

// ClusterSize is the unit of Write's offsets, in bytes.
func (t *Target) ClusterSize() int { return t.options.ClusterSize }

// Close ends the connections. It flushes nothing. No call may be under way.
func (t *Target) Close() error {
	for range t.options.Connections {
		(<-t.idle).disconnect()
	}
	return t.pool.release()
}

// Write is that of extent.Sink. data is copied.
func (t *Target) Write(offsets []int64, data []byte) error {
	cluster := t.options.ClusterSize
	for len(offsets) > 0 {
		n := min(len(offsets), bufferSize/cluster)
		if err := t.write(offsets[:n], data[:n*cluster]); err != nil {
			return err
		}
		offsets, data = offsets[n:], data[n*cluster:]
	}
	return nil
}

// write writes as many clusters as a buffer holds.
func (t *Target) write(offsets []int64, data []byte) error {
	return t.with(func(w *writer) error {
		copy(w.buf, data)
		var b batch
		for i, offset := range offsets {
			at := i * t.options.ClusterSize
			length := min(int64(t.options.ClusterSize), t.size-offset)
			if offset < 0 || length <= 0 {
				return fmt.Errorf("write at offset %d of %s: it has %d bytes", offset, w.conn.name, t.size)
			}
			b.append(offset, length, at)
		}
		for _, q := range b.requests {
			p := w.buf[q.bufOffset : q.bufOffset+int(q.length)]
			if err := w.send("write", q.offset, q.length, func(done libnbd.CompletionCallback) error {
				_, err := w.conn.h.AioPwrite(aioBuffer(p), uint64(q.offset), &libnbd.AioPwriteOptargs{CompletionCallbackSet: true, CompletionCallback: done})
				return err
			}); err != nil {
				return err
			}
		}
		return w.finish(t.ctx)
	})
}

// Zero makes the bytes [offset, offset+length) read as zeros. It is that of extent.Sink,
// but any range within the disk will do.
func (t *Target) Zero(offset, length int64) error {
	var flags libnbd.CmdFlag
	if t.options.Allocate {
		flags = libnbd.CMD_FLAG_NO_HOLE
	}
	return t.with(func(w *writer) error {
		for length > 0 {
			n := min(length, maxZero)
			if err := w.send("zero", offset, n, func(done libnbd.CompletionCallback) error {
				_, err := w.conn.h.AioZero(uint64(n), uint64(offset), &libnbd.AioZeroOptargs{
					CompletionCallbackSet: true, CompletionCallback: done, FlagsSet: true, Flags: flags})
				return err
			}); err != nil {
				return err
			}
			if err := w.finish(t.ctx); err != nil {
				return err
			}
			offset, length = offset+n, length-n
		}
		return nil
	})
}

// Flush puts all that was written on stable storage. A server need not flush what came over
// other connections than the one it is asked on (NBD_FLAG_CAN_MULTI_CONN), so each is
// flushed.
func (t *Target) Flush() error {
	writers := make([]*writer, 0, t.options.Connections)
	for range t.options.Connections {
		writers = append(writers, <-t.idle)
	}
	defer func() {
		for _, w := range writers {
			t.idle <- w
		}
	}()
	for _, w := range writers {
		if err := t.failure(); err != nil {
			return err
		}
		if w.conn == nil {
			continue
		}
		if err := t.fail(w, w.flush(t.ctx)); err != nil {
			return err
		}
	}
	return t.failure()
}

// with lends a connected writer to do.
func (t *Target) with(do func(*writer) error) error {
	w := <-t.idle
	defer func() { t.idle <- w }()
	if err := t.failure(); err != nil {
		return err
	}
	err := w.connect(t)
	if err == nil {
		err = do(w)
	}
	return t.fail(w, err)
}

func (t *Target) failure() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failed
}

// fail notes an error. Requests may be in flight then: the connection is closed, so that
// they do not read the buffer any more.
func (t *Target) fail(w *writer, err error) error {
	if err == nil {
		return nil
	}
	w.disconnect()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failed == nil {
		t.failed = err
	}
	return err
}

// writer is a connection to write over, and memory for what is in flight on it. One goroutine
// uses it at a time.
type writer struct {
	conn *conn // nil before the first use
	buf  []byte

	pending int // requests that were not answered
	failed  error
}

func (w *writer) connect(t *Target) (err error) {
	if w.conn == nil {
		w.conn, err = dial(t.ctx, t.socket, t.export, "")
	}
	return err
}

func (w *writer) disconnect() {
	if w.conn != nil {
		w.conn.close()
		w.conn, w.pending = nil, 0
	}
}

// send starts a request. Its answer comes in a later poll of this goroutine.
func (w *writer) send(what string, offset, length int64, start func(libnbd.CompletionCallback) error) error {
	return w.begin(fmt.Sprintf("%s %d bytes at offset %d of %s", what, length, offset, w.conn.name), start)
}

func (w *writer) begin(what string, start func(libnbd.CompletionCallback) error) error {
	w.pending++
	err := start(func(errno *int) int {
		w.pending--
		if err := errnoError(*errno); err != nil && w.failed == nil {
			w.failed = fmt.Errorf("%s: %w", what, err)
		}
		return 1 // libnbd retires it
	})
	if err := reason(err); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func (w *writer) flush(ctx context.Context) error {
	if err := w.begin("flush "+w.conn.name, func(done libnbd.CompletionCallback) error {
		_, err := w.conn.h.AioFlush(&libnbd.AioFlushOptargs{CompletionCallbackSet: true, CompletionCallback: done})
		return err
	}); err != nil {
		return err
	}
	return w.finish(ctx)
}

// finish waits for all answers. An error of a request is told only when the others have
// been answered, or the connection is lost.
func (w *writer) finish(ctx context.Context) error {
	for w.pending > 0 {
		err := w.conn.poll(ctx)
		switch {
		case err == nil:
		case ctx.Err() == nil && w.failed != nil: // which request was lost says more
			return fmt.Errorf("%w (%w)", w.failed, err)
		default:
			return fmt.Errorf("write to %s: %w", w.conn.name, err)
		}
	}
	return w.failed
}
