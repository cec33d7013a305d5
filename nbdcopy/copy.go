//go:build cgo

package nbdcopy

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/virtbackup/virtbackup/extent"
	"github.com/virtbackup/virtbackup/internal/bitset"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/panics"
)

// Source names what an NBD server exports of one disk.
type Source struct {
	Socket string // path of the unix socket
	Export string // name of the export; libvirt names it after the disk's target
	// Bitmap is the name of the dirty bitmap that limits the copy to what
	// changed, without "qemu:dirty-bitmap:"; "" copies all that holds data.
	Bitmap string
	// DirtyFrom is the offset in bytes from which on everything counts as
	// changed, because a bitmap does not cover what a disk has grown by.
	// 0 means that the bitmap covers all. Ignored without Bitmap.
	DirtyFrom int64
}

// Options tune a copy. The zero value works.
type Options struct {
	// Connections to read over, 0 means 2. QEMU serves all of them in one
	// thread, so more do not read faster; the second doubles the requests that
	// QEMU can take up where reads are small. Measured on two cores: one connection reads
	// a full disk as fast, for 6 % less processor time.
	Connections int
	// Requests in flight on each connection, 0 means 16: QEMU handles no more
	// of one connection at a time (NBD_MAX_REQUESTS in nbd/server.c).
	Requests int
	// Writers call the sink side by side, 0 means 4: while one waits for the
	// disk, others hash.
	Writers int
	// Limiter, if set, is asked before each buffer is read. Copies that share
	// one share its rate.
	Limiter Limiter
	// Only, if set, limits the copy to the clusters in it, by their indices, in units of the
	// sink's clusters; a bitmap of the source is not asked. It must not change meanwhile.
	Only *bitset.Set
	// Progress, if set, is called for each extent as it is planned and for
	// each buffer as it is stored. Calls come from several goroutines.
	Progress func(Progress)
}

// Progress is how far a copy has come, in bytes.
type Progress struct {
	Size     int64 // of the disk
	Position int64 // all before it has been planned
	Copied   int64 // read, and stored where not zero
	Zero     int64 // planned so far that need not be read, because it is known to be zeros
}

// Stats says what a copy did, in bytes.
type Stats struct {
	Size  int64 // of the disk
	Read  int64 // asked of the server
	Data  int64 // given to the sink as data
	Clean int64 // unchanged since the base, by its bitmap
}

// buffers of one copy, all of its memory but for a few tables: the budget is
// 32 MiB for a disk. Eight are being read (maxBytes of two connections); the
// others are with the writers or on their way.
const buffers = 24

// Export is an open export: its size is known, its data not yet read.
type Export struct {
	source Source
	size   int64
	alloc  *conn // also where there is no bitmap
	dirty  *conn // nil without a bitmap
	// whether the server says what reads as zeros; without it all is data
	hasAllocation bool
}

// Open connects to an export and checks that the server has the bitmap. The
// caller closes the Export. Errors name the export and the socket.
func Open(ctx context.Context, src Source) (_ *Export, err error) {
	e := &Export{source: src}
	defer func() {
		if err != nil {
			e.Close()
		}
	}()
	if e.alloc, err = dial(ctx, src.Socket, src.Export, allocation); err != nil {
		return nil, err
	}
	if e.hasAllocation, err = e.alloc.hasContext(allocation); err != nil {
		return nil, err
	}
	if e.size, err = e.alloc.size(); err != nil {
		return nil, err
	}
	if src.Bitmap == "" {
		return e, nil
	}
	name := e.bitmapContext()
	if e.dirty, err = dial(ctx, src.Socket, src.Export, name); err != nil {
		return nil, err
	}
	ok, err := e.dirty.hasContext(name)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("%s does not offer the metadata context %s", e.dirty.name, name)
	}
	return e, nil
}

func (e *Export) bitmapContext() string { return "qemu:dirty-bitmap:" + e.source.Bitmap }

// Size is the size of the disk in bytes.
func (e *Export) Size() int64 { return e.size }

// Close ends the connections that Open made.
func (e *Export) Close() {
	for _, c := range []*conn{e.alloc, e.dirty} {
		if c != nil {
			c.close()
		}
	}
}

// Copy copies the disk into sink, once. The first error stops the copy, and so does
// cancelling ctx; no goroutine, connection or buffer of the copy is left when it
// returns.
func (e *Export) Copy(ctx context.Context, sink extent.Sink, o Options) (_ Stats, err error) {
	if err := o.Validate(); err != nil {
		return Stats{}, err
	}
	if c := sink.ClusterSize(); c < 512 || c > bufferSize || c&(c-1) != 0 {
		return Stats{}, fmt.Errorf("cluster size %d is no power of two from 512 to %d", c, bufferSize)
	}
	o = o.withDefaults()
	pool, err := newPool(buffers, bufferSize)
	if err != nil {
		return Stats{}, err
	}
	defer func() { err = errors.Join(err, pool.release()) }()

	c := &copier{export: e, sink: sink, options: o, pool: pool,
		batches: make(chan *batch, buffers), filled: make(chan *batch, buffers)}
	err = c.run(ctx)
	return c.stats(), err
}

// Validate reports options that no copy can run with.
func (o Options) Validate() error {
	if o.Connections < 0 || o.Requests < 0 || o.Writers < 0 {
		return fmt.Errorf("negative option: %d connections, %d requests, %d writers", o.Connections, o.Requests, o.Writers)
	}
	return nil
}

func (o Options) withDefaults() Options {
	if o.Connections == 0 {
		o.Connections = 2
	}
	if o.Requests == 0 {
		o.Requests = 16
	}
	if o.Writers == 0 {
		o.Writers = 4
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	return o
}

// copier is one run of Copy.
type copier struct {
	export  *Export
	sink    extent.Sink
	options Options
	pool    *pool
	batches chan *batch // planned; closed by the planner
	filled  chan *batch // read; closed when the last reader has ended

	position, read, copied, data, zero, clean atomic.Int64
}

func (c *copier) run(ctx context.Context) error {
	group, ctx := panics.WithContext(ctx)
	group.Go(func() error { return c.plan(ctx) })
	group.Go(func() error {
		defer close(c.filled)
		return c.readAll(ctx)
	})
	for range c.options.Writers {
		group.Go(func() error { return c.write(ctx) })
	}
	return group.Wait()
}

func (c *copier) plan(ctx context.Context) error {
	extents := c.export.extents(c.sink.ClusterSize())
	if c.options.Only != nil {
		extents.only(c.options.Only)
	}
	p := &planner{extents: extents, sink: c.sink,
		pool: c.pool, limiter: c.options.Limiter, out: c.batches, report: c.planned}
	return p.run(ctx)
}

// extents yields what is to be done with the disk, in units of cluster bytes.
func (e *Export) extents(cluster int) *extents {
	x := &extents{size: e.size, cluster: int64(cluster), dirtyFrom: e.source.DirtyFrom}
	if e.hasAllocation {
		x.alloc = &cursor{name: e.alloc.name, status: e.alloc.status(allocation), size: e.size, window: allocationWindow, flag: stateZero}
	}
	if e.dirty != nil {
		x.dirty = &cursor{name: e.dirty.name, status: e.dirty.status(e.bitmapContext()), size: e.size, window: bitmapWindow, flag: stateDirty}
	}
	return x
}

// readAll reads over all connections. They are closed before it returns, so
// that nothing is written to a buffer any more.
func (c *copier) readAll(ctx context.Context) error {
	group, ctx := panics.WithContext(ctx)
	for range c.options.Connections {
		group.Go(func() error {
			conn, err := dial(ctx, c.export.source.Socket, c.export.source.Export, "")
			if err != nil {
				return err
			}
			defer conn.close()
			r := &reader{conn: conn, requests: c.options.Requests, in: c.batches, out: c.filled}
			return r.run(ctx)
		})
	}
	return group.Wait()
}

func (c *copier) write(ctx context.Context) error {
	size := c.export.size
	for b := range c.filled {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := fault.Point("copy buffer"); err != nil {
			return err
		}
		length := b.length()
		stored, err := b.store(c.sink, c.sink.ClusterSize(), size)
		if err != nil {
			return err
		}
		c.pool.put(b.buf)
		c.data.Add(stored)
		c.copied.Add(length)
		c.progress()
	}
	return nil
}

func (c *copier) planned(e extent.Extent) {
	switch e.Status {
	case extent.Data:
		c.read.Add(e.Length)
	case extent.Zero:
		c.zero.Add(e.Length)
	case extent.Clean:
		c.clean.Add(e.Length)
	}
	c.position.Store(e.End())
	c.progress()
}

func (c *copier) progress() {
	c.options.Progress(Progress{Size: c.export.size, Position: c.position.Load(), Copied: c.copied.Load(), Zero: c.zero.Load()})
}

func (c *copier) stats() Stats {
	return Stats{Size: c.export.size, Read: c.read.Load(), Data: c.data.Load(), Clean: c.clean.Load()}
}
