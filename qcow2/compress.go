package qcow2

import "runtime"

// Compressor makes one zstd frame of each cluster (compression_type 1). It is
// used by one goroutine at a time.
type Compressor interface {
	// Append appends to dst a frame that unpacks to cluster, and returns it. It
	// keeps neither.
	Append(dst, cluster []byte) ([]byte, error)
}

const (
	// minSaving is what a compressed cluster must save to be worth the time that
	// reading it takes: a sector, the unit of its length in L2 entries.
	minSaving = sectorSize

	// maxCompressors bounds memory: as many callers of Write compress at once,
	// or as there are processors.
	maxCompressors = 4
)

// compressors are lent to one caller of Write each.
type compressors struct {
	clusterSize int
	make        func() Compressor
	idle        chan *compressor // nil: not made yet
}

// newCompressors returns nil where o asks for no compression.
func newCompressors(o Options) *compressors {
	if o.NewCompressor == nil {
		return nil
	}
	n := min(runtime.GOMAXPROCS(0), maxCompressors)
	cs := &compressors{clusterSize: o.ClusterSize, make: o.NewCompressor, idle: make(chan *compressor, n)}
	for range n {
		cs.idle <- nil
	}
	return cs
}

// get waits for a compressor, which the caller gives back with put.
func (cs *compressors) get() *compressor {
	if c := <-cs.idle; c != nil {
		return c
	}
	return newCompressor(cs.clusterSize, cs.make())
}

func (cs *compressors) put(c *compressor) { cs.idle <- c }

// compressor compresses the clusters of one call of Write after the other.
type compressor struct {
	clusterSize int
	frames      Compressor
	out         []byte   // frames, one behind the other
	ends        []int    // of each cluster's frame in out; where the one before ends: stored raw
	parts       [][]byte // of out
}

func newCompressor(clusterSize int, frames Compressor) *compressor {
	return &compressor{clusterSize: clusterSize, frames: frames}
}

// compress compresses whole clusters, at most a segment of them. data is only
// read. It returns the frame of each, empty for one to be stored raw, which are c's until
// the next call; nil if none got smaller.
func (c *compressor) compress(data []byte) (frames [][]byte, err error) {
	c.out, c.ends = c.out[:0], c.ends[:0]
	for ; len(data) > 0; data = data[c.clusterSize:] {
		start := len(c.out)
		if c.out, err = c.frames.Append(c.out, data[:c.clusterSize]); err != nil {
			return nil, err
		}
		if len(c.out)-start > c.clusterSize-minSaving {
			c.out = c.out[:start]
		}
		c.ends = append(c.ends, len(c.out))
	}
	if len(c.out) == 0 {
		return nil, nil
	}
	c.parts = c.parts[:0]
	start := 0
	for _, end := range c.ends {
		c.parts, start = append(c.parts, c.out[start:end]), end
	}
	return c.parts, nil
}

// compressedEntry is the L2 entry of a frame of so many bytes at a host offset
// ("Compressed Clusters Descriptor"). It is never marked as copied.
func compressedEntry(host int64, length, clusterSize int) uint64 {
	sectors := (host+int64(length)-1)/sectorSize - host/sectorSize
	return entryCompressed | uint64(sectors)<<compressedOffsetBits(clusterSize) | uint64(host)
}

// compressedOffsetBits is how many bits of such an entry are the offset; the
// number of sectors beyond the first has the rest.
func compressedOffsetBits(clusterSize int) int { return 62 - (clusterBits(clusterSize) - 8) }
