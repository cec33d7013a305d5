package flatten

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/virtbackup/virtbackup/extent"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/qcow2"
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
	sink      extent.Sink
	newReader func() baseReader

	mu   sync.Mutex
	idle []*lookup // lent to one call at a time

	same atomic.Int64
}

// lookup reads the base for one call at a time.
type lookup struct {
	base baseReader
	buf  []byte // page-aligned; nil until the first Write
}

// baseReader is what *qcow2.ChainReader has.
type baseReader interface {
	// Read fills buf with the clusters at offsets, zeros behind the end.
	Read(buf []byte, offsets []int64) error
	// NextData finds the first run of clusters with data between two offsets;
	// from is end where there are none.
	NextData(offset, end int64) (from, to int64, err error)
}

// Compare puts a Comparer in front of sink, whose clusters have the base's size.
// The images of base stay open until the last call of the Comparer has returned.
func Compare(base *qcow2.Chain, sink extent.Sink) (*Comparer, error) {
	if err := sameClusters(base, sink); err != nil {
		return nil, baseError(err)
	}
	return &Comparer{sink: sink, newReader: func() baseReader { return base.NewReader() }}, nil
}

// Same is how many bytes of data were given to Write so far and not passed on.
func (c *Comparer) Same() int64 { return c.same.Load() }

// ClusterSize is that of the sink behind.
func (c *Comparer) ClusterSize() int { return c.sink.ClusterSize() }

// Write passes on the clusters that differ, each run of neighbours in data as
// one write, so that nothing is moved; data stays page-aligned, as clusters of
// images are no smaller than a page.
func (c *Comparer) Write(offsets []int64, data []byte) error {
	l := c.take()
	defer c.put(l)
	base := l.buffer(len(data))
	if err := l.base.Read(base, offsets); err != nil {
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

// Zero passes on the clusters of the range in which the base has something.
func (c *Comparer) Zero(offset, length int64) error {
	l := c.take()
	defer c.put(l)
	end := offset + length
	for pos := offset; pos < end; {
		from, to, err := l.base.NextData(pos, end)
		if err != nil {
			return baseError(err)
		}
		if from >= end {
			return nil
		}
		pos = min(to, end) // what is not a whole cluster is the end of the disk
		if err := c.sink.Zero(from, pos-from); err != nil {
			return err
		}
	}
	return nil
}

// take returns what the caller reads the base with. There are no more than calls
// run at the same time, so nobody waits for one.
func (c *Comparer) take() *lookup {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(c.idle)
	if n == 0 {
		return &lookup{base: c.newReader()}
	}
	l := c.idle[n-1]
	c.idle = c.idle[:n-1]
	return l
}

func (c *Comparer) put(l *lookup) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle = append(c.idle, l)
}

// buffer is memory for n bytes of the base.
func (l *lookup) buffer(n int) []byte {
	if len(l.buf) < n {
		l.buf = directio.Buffer(max(n, batchBytes))
	}
	return l.buf[:n]
}

func baseError(err error) error { return fmt.Errorf("compare with the base: %w", err) }
