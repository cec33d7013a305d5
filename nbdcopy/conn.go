//go:build cgo

package nbdcopy

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"libguestfs.org/libnbd"
)

// pollInterval is how long a poll may take before the context is checked again: a
// cancelled copy ends within it even if the server does not answer.
const pollInterval = 100 * time.Millisecond

// allocation is the metadata context of the NBD protocol that every server with
// block status has. libnbd's binding has no constant for it before 1.16.
const allocation = "base:allocation"

// conn is one NBD connection. One goroutine uses it: libnbd holds a lock for
// the length of each call, Poll included.
type conn struct {
	h    *libnbd.Libnbd
	name string // for errors
}

// dial connects to an export, asking for one metadata context to query, or none
// (""), to read. libnbd silently drops a context that the server does not know; see
// hasContext.
//
// A connection to read has simple replies: each is as many bytes as were asked for,
// by the NBD protocol. A structured reply comes in chunks, and libnbd 1.14 does not
// check that they cover the read exactly once: where one is missing, the buffer shows
// what it held before. (The chunks could be counted in a callback, but the binding
// copies all data for it.) Data that is read reads as data by block status, so there
// are no holes that chunks would save. Block status needs structured replies, so
// there are connections of both kinds.
func dial(ctx context.Context, socket, export, metaContext string) (_ *conn, err error) {
	h, err := libnbd.Create()
	if err != nil {
		return nil, fmt.Errorf("create an NBD handle: %w", reason(err))
	}
	c := &conn{h: h, name: fmt.Sprintf("NBD export %q at %s", export, socket)}
	defer func() {
		if err != nil {
			c.close()
			err = fmt.Errorf("connect to %s: %w", c.name, err)
		}
	}()
	if metaContext == "" {
		if err := h.SetRequestStructuredReplies(false); err != nil {
			return nil, reason(err)
		}
	}
	// Requests are sent within the disk's size and from buffers that are
	// read only after a request has succeeded, so libnbd need not clear them
	// before: that would cost a pass over all memory.
	if err := h.SetPreadInitialize(false); err != nil {
		return nil, reason(err)
	}
	if err := h.SetExportName(export); err != nil {
		return nil, reason(err)
	}
	if metaContext != "" {
		if err := h.AddMetaContext(metaContext); err != nil {
			return nil, reason(err)
		}
	}
	// The asynchronous call, because the plain one cannot be cancelled.
	if err := h.AioConnectUnix(socket); err != nil {
		return nil, reason(err)
	}
	if err := c.wait(ctx, c.ready); err != nil {
		return nil, err
	}
	return c, nil
}

// close closes the connection. Requests in flight are dropped, and libnbd does not
// touch their buffers any more. (Close only fails on a handle that was closed
// before.)
func (c *conn) close() { _ = c.h.Close() }

// wait polls the connection until done returns true or an error, or ctx is cancelled.
func (c *conn) wait(ctx context.Context, done func() (bool, error)) error {
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		if err := c.poll(ctx); err != nil {
			return err
		}
	}
}

// poll waits for the server, for pollInterval at most.
func (c *conn) poll(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	_, err := c.h.Poll(int(pollInterval / time.Millisecond))
	if err != nil && !errors.Is(reason(err), syscall.EINTR) {
		return reason(err)
	}
	return nil
}

func (c *conn) ready() (bool, error) {
	dead, err := c.h.AioIsDead()
	if err != nil {
		return false, reason(err)
	}
	if dead {
		return false, errConnectionLost
	}
	ready, err := c.h.AioIsReady()
	if err != nil {
		return false, reason(err)
	}
	return ready, nil
}

var errConnectionLost = errors.New("the server closed the connection")

// size is the export's size in bytes.
func (c *conn) size() (int64, error) {
	n, err := c.h.GetSize()
	if err != nil {
		return 0, fmt.Errorf("size of %s: %w", c.name, reason(err))
	}
	return int64(n), nil
}

func (c *conn) hasContext(name string) (bool, error) {
	ok, err := c.h.CanMetaContext(name)
	if err != nil {
		return false, fmt.Errorf("metadata context %s of %s: %w", name, c.name, reason(err))
	}
	return ok, nil
}

// status returns the statusFunc of one metadata context of this connection.
func (c *conn) status(metaContext string) statusFunc {
	return func(ctx context.Context, offset, length int64) ([]entry, error) {
		return c.blockStatus(ctx, metaContext, offset, length)
	}
}

// errStatusTwice is a reply with two BLOCK_STATUS chunks of one metadata context, where the
// NBD protocol has exactly one. Each starts at the request's offset: the second would be
// taken for what lies behind the first.
var errStatusTwice = errors.New("the server's reply describes the same metadata context twice")

func (c *conn) blockStatus(ctx context.Context, metaContext string, offset, length int64) ([]entry, error) {
	var entries []entry
	var done, twice bool
	var failed error
	extent := func(name string, _ uint64, pairs []uint32, _ *int) int {
		if name == metaContext {
			twice = twice || entries != nil
			entries = entriesOf(pairs)
		}
		return 0
	}
	_, err := c.h.AioBlockStatus(uint64(length), uint64(offset), extent, &libnbd.AioBlockStatusOptargs{
		CompletionCallbackSet: true,
		CompletionCallback: func(errno *int) int {
			done, failed = true, errnoError(*errno)
			return 1
		},
	})
	if err != nil {
		return nil, reason(err)
	}
	// A connection that breaks completes the request, too.
	if err := c.wait(ctx, func() (bool, error) { return done, nil }); err != nil {
		return nil, err
	}
	if failed == nil && twice {
		return nil, errStatusTwice
	}
	return entries, failed
}

// entriesOf reads the pairs of length and flags that libnbd hands out. It is never nil.
func entriesOf(pairs []uint32) []entry {
	entries := make([]entry, 0, len(pairs)/2)
	for i := 0; i+1 < len(pairs); i += 2 {
		entries = append(entries, entry{int64(pairs[i]), pairs[i+1]})
	}
	return entries
}

// read asks for one run of bytes. finish is called by a later poll of this
// goroutine, once, unless the connection is closed before.
func (c *conn) read(p []byte, offset int64, finish func(error)) error {
	_, err := c.h.AioPread(aioBuffer(p), uint64(offset), &libnbd.AioPreadOptargs{
		CompletionCallbackSet: true,
		CompletionCallback: func(errno *int) int {
			finish(errnoError(*errno))
			return 1 // the command is done with: libnbd retires it
		},
	})
	return reason(err)
}

func errnoError(errno int) error {
	switch errno {
	case 0:
		return nil
	case int(syscall.ENOTCONN): // libnbd's; no server can send it
		return errConnectionLost
	}
	return syscall.Errno(errno)
}

// reason makes an error of the binding readable. LibnbdError.Error prints the
// errno only where it is 0 (its branches are the wrong way round), and a nil
// *LibnbdError in an error is not nil.
func reason(err error) error {
	var e *libnbd.LibnbdError
	if !errors.As(err, &e) {
		return err
	}
	if e == nil {
		return nil
	}
	if e.Errno == 0 {
		return errors.New(e.Errmsg)
	}
	return &nbdError{e.Errmsg, e.Errno}
}

// nbdError is libnbd's message, which ends in the errno's text where there is
// one, and the errno for errors.Is.
type nbdError struct {
	message string
	errno   syscall.Errno
}

func (e *nbdError) Error() string { return e.message }
func (e *nbdError) Unwrap() error { return e.errno }
