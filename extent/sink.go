package extent

// Sink takes what a copy produces. Its methods are called from several
// goroutines at once, in no order.
type Sink interface {
	// ClusterSize is the unit of all offsets, in bytes, a power of two of at
	// most 1 MiB.
	ClusterSize() int
	// Write stores whole clusters: data[i*ClusterSize():] begins with the
	// guest's bytes at offsets[i]. Each cluster of the disk comes at most
	// once. What the disk's last cluster has beyond the end of the disk is
	// zero. data is page-aligned and belongs to the caller, who uses it again
	// as soon as Write returns.
	Write(offsets []int64, data []byte) error
	// Zero says that the guest's bytes [offset, offset+length) read as zeros.
	// The range consists of whole clusters, or ends at the end of the disk.
	Zero(offset, length int64) error
}
