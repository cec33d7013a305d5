package hashlist

const (
	// RangeLength is how many bytes of an image one hash of a new hash list covers:
	// 64 KiB, a cluster, so that a cluster or a table can be read and proven
	// without its neighbours. A list is 512 MiB for 1 TiB of image.
	RangeLength = 64 << 10

	// FirstRangeLength is that of lists of format 1, 1 MiB: their header has
	// version 1, and their manifests do not say it.
	FirstRangeLength = 1 << 20

	// MaxImage keeps sums of offsets far from overflow: 2^62 bytes.
	MaxImage = 1 << 62
)
