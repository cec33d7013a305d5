package flatten

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/virtbackup/virtbackup/extent"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/qcow2/chain"
)

// Comparer is a sink that passes on only what differs from a base, an older
// state of the same disk, so that a full read becomes an incremental:
//
//	base   |aaaa|bbbb|....|cccc|....|          ends here: reads as zeros behind
//	disk   |aaaa|xxxx|yyyy|....|....|....|zzzz|
//	out    |    |xxxx|yyyy|zero|    |    |zzzz|
//
// Where the disk has data, the same clusters of the base are read, whatever they
// are; where the disk reads as zeros, the base's tables say whether there is
// anything to be hidden, and nothing is read.
//
// It takes 1 MiB of memory for each call of Write that runs at the same time.
type Comparer struct {
	base *chain.Chain
	sink extent.Sink

	mu   sync.Mutex
	idle []*baseReader // lent to one call of Write at a time

	same atomic.Int64
}

// baseReader reads the base for one call of Write at a time.
type baseReader struct {
	*chain.Reader
	buf []byte // page-aligned
}

// Compare puts a Comparer in front of sink, whose clusters have the base's size.
// The images of base stay open until the last call of the Comparer has returned.
func Compare(base *chain.Chain, sink extent.Sink) (*Comparer, error) {
	if err := sameClusters(base, sink); err != nil {
		return nil, baseError(err)
	}
	return &Comparer{base: base, sink: sink}, nil
}

// Same is how many bytes of data were given to Write so far and not passed on.
func (c *Comparer) Same() int64 { return c.same.Load() }

// ClusterSize is that of the sink behind.
func (c *Comparer) ClusterSize() int { return c.sink.ClusterSize() }

// Write passes on the clusters that differ, each run of neighbours in data as
// one write, so that nothing is moved; data stays page-aligned, as clusters of
// images are no smaller than a page.
func (c *Comparer) Write(offsets []int64, data []byte) error {
	r := c.take()
	defer c.put(r)
	base := r.buffer(len(data))
	if err := r.Read(base, offsets); err != nil {
		return baseError(err)
	}
	cluster := c.ClusterSize()
	start := 0 // of a run of clusters that differ
	for i := range offsets {
		at := i * cluster
		if !bytes.Equal(base[at:at+cluster], data[at:at+cluster]) {
			continue
		}
		c.same.Add(int64(cluster))
		if err := c.pass(offsets[start:i], data[start*cluster:at]); err != nil {
			return err
		}
		start = i + 1
	}
	return c.pass(offsets[start:], data[start*cluster:])
}

func (c *Comparer) pass(offsets []int64, data []byte) error {
	if len(offsets) == 0 {
		return nil
	}
	return c.sink.Write(offsets, data)
}

// Zero passes on the clusters of the range in which the base has data.
func (c *Comparer) Zero(offset, length int64) error {
	end := offset + length
	for offset < min(end, c.base.Size()) {
		i := offset / c.base.WindowSize()
		w, err := c.base.Window(i)
		if err != nil {
			return baseError(err)
		}
		next := min((i+1)*c.base.WindowSize(), end)
		if w != nil {
			if err := c.zeroIn(w, offset, next); err != nil {
				return err
			}
		}
		offset = next
	}
	return nil
}

// zeroIn passes on zeros between two offsets of a window of the base.
func (c *Comparer) zeroIn(w *chain.Window, offset, end int64) error {
	cluster := int64(c.ClusterSize())
	for k := int((offset - w.Offset) / cluster); k < w.Len() && w.At(k) < end; {
		start := w.At(k)
		next, state := w.Run(k)
		k = next
		if state != chain.Data {
			continue
		}
		// What is not a whole cluster is the end of the disk.
		if err := c.sink.Zero(start, min(w.At(next), end)-start); err != nil {
			return err
		}
	}
	return nil
}

// take returns what the caller reads the base with. There are no more than calls
// run at the same time, so nobody waits for one.
func (c *Comparer) take() *baseReader {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(c.idle)
	if n == 0 {
		return &baseReader{Reader: c.base.NewReader()}
	}
	r := c.idle[n-1]
	c.idle = c.idle[:n-1]
	return r
}

func (c *Comparer) put(r *baseReader) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle = append(c.idle, r)
}

// buffer is memory for n bytes of the base.
func (r *baseReader) buffer(n int) []byte {
	if len(r.buf) < n {
		r.buf = directio.Buffer(max(n, batchBytes))
	}
	return r.buf[:n]
}

func baseError(err error) error { return fmt.Errorf("compare with the base: %w", err) }
