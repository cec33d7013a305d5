package repository

import (
	"slices"
	"sync"

	"github.com/virtbackup/virtbackup/directio"
)

// mostCached ranges are kept for those who need a part of one: tables, and
// clusters that others have come between in the file. They are asked for one
// soon after the other, by a handful of readers in a few images.
const mostCached = 16

// rangeCache holds the ranges of a chain's images that were read last.
type rangeCache struct {
	mu     sync.Mutex
	ranges []*cachedRange // the one that was used last is the last
}

// cachedRange is one range; length and err are valid once it is ready.
type cachedRange struct {
	image *provingReader
	index int64
	users int // have got it and not put it back; under the cache's lock
	ready chan struct{}

	buf    []byte
	length int
	err    error
}

// get reads a range, or waits for who is doing so. The caller gives it back. It
// is nil where the range is not here and need not be read as a whole.
func (c *rangeCache) get(image *provingReader, index int64) *cachedRange {
	r, isNew := c.find(image, index)
	if r == nil {
		return nil
	}
	if isNew {
		r.length, r.err = image.readRange(index, r.buf)
		close(r.ready)
	}
	<-r.ready
	return r
}

func (c *rangeCache) find(image *provingReader, index int64) (r *cachedRange, isNew bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.ranges, func(r *cachedRange) bool { return r.image == image && r.index == index })
	switch {
	case i >= 0:
		r = c.ranges[i]
		c.ranges = slices.Delete(c.ranges, i, i+1)
	case image.proof.has(index):
		return nil, false
	default:
		r = &cachedRange{image: image, index: index, ready: make(chan struct{}), buf: c.room()}
	}
	r.users++
	c.ranges = append(c.ranges, r)
	return r, i < 0
}

// room takes the memory of the range that nobody has used for longest, or new
// one.
func (c *rangeCache) room() []byte {
	i := slices.IndexFunc(c.ranges, func(r *cachedRange) bool { return r.users == 0 })
	if len(c.ranges) < mostCached || i < 0 {
		return directio.Buffer(RangeLength)
	}
	buf := c.ranges[i].buf
	c.ranges = slices.Delete(c.ranges, i, i+1)
	return buf
}

func (c *rangeCache) put(r *cachedRange) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r.users--
}
