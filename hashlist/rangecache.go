package hashlist

import (
	"errors"
	"sync"

	"github.com/virtbackup/virtbackup/internal/directio"
)

// maxCached bytes are kept for those who need a part of a range: tables, packed
// clusters, pieces of hash lists. They are asked for one soon after the other, by
// a handful of readers in a few images.
const maxCached = 8 << 20

// ranged is a file that is read and proven in ranges.
type ranged interface {
	// length of a range, bytes.
	rangeLength(index int64) int64
	// readRange fills buf, which is from directio.Buffer and may be longer than
	// the range by less than a page, and proves what it has read.
	readRange(index int64, buf []byte) error
}

// rangeCache holds the ranges of a chain's files that were read last. All that is
// in it is proven.
type rangeCache struct {
	mu     sync.Mutex
	ranges map[rangeKey]*cachedRange
	bytes  int64
	clock  int64
}

type rangeKey struct {
	file  ranged
	index int64
}

// cachedRange is one range; data and err are valid once it is ready.
type cachedRange struct {
	key   rangeKey
	users int   // have got it and not put it back; under the cache's lock
	used  int64 // by the cache's clock; likewise
	ready chan struct{}

	buf  []byte
	data []byte
	err  error
}

func newRangeCache() *rangeCache { return &rangeCache{ranges: map[rangeKey]*cachedRange{}} }

// get reads a range, or waits for who is doing so. The caller puts it back, and
// does not use its data after that.
func (c *rangeCache) get(file ranged, index int64) (*cachedRange, error) {
	r, isNew := c.find(rangeKey{file, index})
	if isNew {
		c.fill(r)
	}
	<-r.ready
	if r.err != nil {
		c.forget(r)
		return nil, r.err
	}
	return r, nil
}

// fill reads a range. Whoever waits for it gets an error if that panics.
func (c *rangeCache) fill(r *cachedRange) {
	r.err = errReadPanicked
	defer close(r.ready)
	r.err = r.key.file.readRange(r.key.index, r.buf)
}

var errReadPanicked = errors.New("reading a range of an image panicked")

func (c *rangeCache) find(key rangeKey) (r *cachedRange, isNew bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clock++
	r = c.ranges[key]
	if r == nil {
		length := key.file.rangeLength(key.index)
		buf := c.room((length + pageSize - 1) &^ (pageSize - 1))
		r, isNew = &cachedRange{key: key, ready: make(chan struct{}), buf: buf, data: buf[:length]}, true
		c.ranges[key] = r
	}
	r.users++
	r.used = c.clock
	return r, isNew
}

// pageSize is what O_DIRECT reads at least.
const pageSize = 4096

// room takes the memory of the ranges that were not used for longest, or new memory.
func (c *rangeCache) room(length int64) (buf []byte) {
	c.bytes += length
	for c.bytes > maxCached {
		var oldest *cachedRange
		for _, r := range c.ranges {
			if r.users == 0 && (oldest == nil || r.used < oldest.used) {
				oldest = r
			}
		}
		if oldest == nil {
			break
		}
		if int64(len(oldest.buf)) == length {
			buf = oldest.buf
		}
		c.drop(oldest)
	}
	if buf == nil {
		buf = directio.Buffer(int(length))
	}
	return buf
}

func (c *rangeCache) drop(r *cachedRange) {
	c.bytes -= int64(len(r.buf))
	delete(c.ranges, r.key)
}

func (c *rangeCache) put(r *cachedRange) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r.users--
}

// forget puts a range back that could not be read; the next get reads it again.
func (c *rangeCache) forget(r *cachedRange) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r.users--
	if c.ranges[r.key] == r {
		c.drop(r)
	}
}
