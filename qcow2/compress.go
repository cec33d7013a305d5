package qcow2

import (
	"fmt"
	"runtime"

	"github.com/klauspost/compress/zstd"
)

// Compression says how the clusters of an image are compressed.
type Compression int

const (
	None Compression = iota // not at all
	Zstd                    // each on its own, to one zstd frame (compression_type 1)
)

const (
	// defaultLevel is what QEMU compresses with (ZSTD_CLEVEL_DEFAULT). Bytes
	// left of 192 MiB in clusters of 64 KiB, and MB/s of one core of a shared
	// machine, for Go sources, programs of /usr/bin, logs, and random data in
	// hexadecimal:
	//
	//	level   sources       programs      logs          hexadecimal
	//	QEMU    0.2314        0.6081        0.3940        0.5039
	//	1-2     0.2431  232   0.6197  287   0.4069  157   0.5006  569
	//	3-5     0.2318  189   0.6010  215   0.3930  116   0.5006  518
	//	6-9     0.2227  139   0.5940  173   0.3998  100   0.5009  242
	//	10-     0.2047   30   0.5827   28   0.3800   17   0.5047    8
	defaultLevel = 3

	// maxLevel is where the encoder's tables would grow from 4 to 34 MiB for
	// each goroutine, more than a disk may have.
	maxLevel = 9

	// leastSaving is what a compressed cluster must save to be worth the time
	// of those who read it: a sector, the unit of its length in L2 entries.
	leastSaving = sectorSize

	// maxCompressors bounds memory: as many callers of Write compress at once,
	// or as there are processors. One takes 3 MiB, 6 MiB from level 6 on.
	maxCompressors = 4
)

func (o Options) validateCompression() error {
	switch {
	case o.Compression != None && o.Compression != Zstd:
		return fmt.Errorf("unknown qcow2 compression %d", o.Compression)
	case o.Compression == None && o.Level != 0:
		return fmt.Errorf("qcow2 compression level %d without compression", o.Level)
	case o.Level < 0 || o.Level > maxLevel:
		return fmt.Errorf("zstd level %d: not from 1 to %d", o.Level, maxLevel)
	}
	return nil
}

// compressors are lent to one caller of Write each.
type compressors struct {
	clusterSize int
	level       int
	idle        chan *compressor // nil: not made yet
}

// newCompressors returns nil where o asks for no compression.
func newCompressors(o Options) *compressors {
	if o.Compression == None {
		return nil
	}
	n := min(runtime.GOMAXPROCS(0), maxCompressors)
	cs := &compressors{clusterSize: o.ClusterSize, level: o.Level, idle: make(chan *compressor, n)}
	for range n {
		cs.idle <- nil
	}
	return cs
}

// get waits for a compressor, which the caller gives back with put.
func (cs *compressors) get() (*compressor, error) {
	c := <-cs.idle
	if c != nil {
		return c, nil
	}
	c, err := newCompressor(cs.clusterSize, cs.level)
	if err != nil {
		cs.idle <- nil
	}
	return c, err
}

func (cs *compressors) put(c *compressor) { cs.idle <- c }

// compressor compresses the clusters of one call of Write after the other.
type compressor struct {
	clusterSize int
	text        *zstd.Encoder // also of what has no repetitions, only few different bytes
	random      *zstd.Encoder // only by repetitions, and quick to find none
	out         []byte        // frames, one behind the other
	ends        []int         // of each cluster's frame in out; where the one before ends: stored raw
}

func newCompressor(clusterSize, level int) (*compressor, error) {
	c := &compressor{clusterSize: clusterSize, out: make([]byte, 0, max(segmentSize, clusterSize)+pageSize)}
	var err error
	if c.text, err = newEncoder(clusterSize, zstd.EncoderLevelFromZstd(level), true); err != nil {
		return nil, err
	}
	c.random, err = newEncoder(clusterSize, zstd.SpeedFastest, false)
	return c, err
}

// newEncoder makes an encoder of one frame for each cluster, without a checksum:
// QEMU writes none either, and the repository hashes every byte of the file.
func newEncoder(clusterSize int, level zstd.EncoderLevel, literals bool) (*zstd.Encoder, error) {
	e, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(level),
		zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false),
		zstd.WithWindowSize(clusterSize),
		zstd.WithSingleSegment(true),
		zstd.WithLowerEncoderMem(true),
		zstd.WithAllLitEntropyCompression(literals))
	if err != nil {
		return nil, fmt.Errorf("make a zstd encoder: %w", err)
	}
	return e, nil
}

// compress compresses whole clusters, at most a segment of them. data is only
// read. It returns how many got smaller; frame has them until the next call.
func (c *compressor) compress(data []byte) (smaller int) {
	c.out, c.ends = c.out[:0], c.ends[:0]
	for ; len(data) > 0; data = data[c.clusterSize:] {
		cluster := data[:c.clusterSize]
		encoder := c.text
		if looksRandom(cluster) {
			encoder = c.random
		}
		start := len(c.out)
		c.out = encoder.EncodeAll(cluster, c.out)
		if len(c.out)-start > c.clusterSize-leastSaving {
			c.out = c.out[:start]
		} else {
			smaller++
		}
		c.ends = append(c.ends, len(c.out))
	}
	return smaller
}

// frame is the cluster at an index, compressed; empty for one to be stored raw,
// as are all those of no compressor.
func (c *compressor) frame(i int) []byte {
	if c == nil {
		return nil
	}
	start := 0
	if i > 0 {
		start = c.ends[i-1]
	}
	return c.out[start:c.ends[i]]
}

// looksRandom tells whether a sample of a cluster has all bytes about equally
// often, as compressed, encrypted or random data has. Then it is not worth while
// to encode bytes by their frequency, which takes the encoder three times as
// long as to find that there are no repetitions (1.2 against 3.9 GB/s).
func looksRandom(cluster []byte) bool {
	const pieces = 16
	var counts [256]int
	step := len(cluster) / pieces
	length := min(256, step/4)
	for at := 0; at < len(cluster); at += step {
		for _, b := range cluster[at : at+length] {
			counts[b]++
		}
	}
	// How many pairs of bytes in the sample are equal: one in 256 by chance.
	n, equal := pieces*length, 0
	for _, count := range counts {
		equal += count * (count - 1)
	}
	// A quarter more is 7.68 bits a byte: not 4 % to be gained.
	return equal*256 < n*n*5/4
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
