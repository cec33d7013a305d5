package nbdcopy

import (
	"bytes"
	"fmt"
	"sync/atomic"

	"github.com/virtbackup/virtbackup/extent"
	"github.com/virtbackup/virtbackup/qcow2"
)

// comparer is a sink that passes on only what differs from a base, an older
// state of the same disk, so that a full read becomes an incremental:
//
//	base   |aaaa|bbbb|....|cccc|....|          ends here: reads as zeros behind
//	disk   |aaaa|xxxx|yyyy|....|....|....|zzzz|
//	out    |    |xxxx|yyyy|zero|    |    |zzzz|
//
// Where the disk has data, the same clusters of the base are read, whatever they
// are; where the disk reads as zeros, the base's tables say whether there is
// anything to be hidden, and nothing is read.
type comparer struct {
	sink extent.Sink
	pool *pool
	// readers of the base that are idle. There is one for each goroutine that
	// calls the sink, so nobody waits for one.
	readers chan *baseReader

	same atomic.Int64 // bytes of data that were read and are as in the base
}

// baseReader reads the base for one caller at a time.
type baseReader struct {
	base older
	buf  []byte // as large as the largest write
}

// older is what *qcow2.ChainReader has.
type older interface {
	// Read fills buf with the clusters at offsets, zeros behind the end.
	Read(buf []byte, offsets []int64) error
	// NextData finds the first run of clusters with data between two offsets;
	// from is end where there are none.
	NextData(offset, end int64) (from, to int64, err error)
}

// compareWith puts a comparer in front of sink, for as many callers at once. The
// caller releases it when nobody calls it any more.
func compareWith(base *qcow2.Chain, sink extent.Sink, callers int) (*comparer, error) {
	if base.ClusterSize() != int64(sink.ClusterSize()) {
		return nil, fmt.Errorf("compare with a base in clusters of %d bytes: the image has %d", base.ClusterSize(), sink.ClusterSize())
	}
	pool, err := newPool(callers, bufferSize)
	if err != nil {
		return nil, err
	}
	c := &comparer{sink: sink, pool: pool, readers: make(chan *baseReader, callers)}
	for range callers {
		c.readers <- &baseReader{base: base.NewReader(), buf: <-pool.free}
	}
	return c, nil
}

func (c *comparer) release() error { return c.pool.release() }

func (c *comparer) ClusterSize() int { return c.sink.ClusterSize() }

// Write passes on the clusters that differ, each run of neighbours in data as
// one write, so that nothing is moved; data stays page-aligned, as clusters of
// images are no smaller than a page.
func (c *comparer) Write(offsets []int64, data []byte) error {
	r := <-c.readers
	defer func() { c.readers <- r }()
	base := r.buf[:len(data)]
	if err := r.base.Read(base, offsets); err != nil {
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
		if err := c.write(offsets[start:i], data[start*cluster:at]); err != nil {
			return err
		}
		start = i + 1
	}
	return c.write(offsets[start:], data[start*cluster:])
}

func (c *comparer) write(offsets []int64, data []byte) error {
	if len(offsets) == 0 {
		return nil
	}
	return c.sink.Write(offsets, data)
}

// Zero passes on the clusters of the range in which the base has something.
func (c *comparer) Zero(offset, length int64) error {
	r := <-c.readers
	defer func() { c.readers <- r }()
	end := offset + length
	for pos := offset; pos < end; {
		from, to, err := r.base.NextData(pos, end)
		if err != nil {
			return baseError(err)
		}
		if from >= end {
			return nil
		}
		pos = min(to, end) // what is not a whole cluster is the end of the disk
		zero := zeroRun{from, pos - from}
		if err := zero.emit(c.sink); err != nil {
			return err
		}
	}
	return nil
}

func baseError(err error) error { return fmt.Errorf("compare with the base: %w", err) }
