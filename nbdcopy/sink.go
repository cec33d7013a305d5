package nbdcopy

import "context"

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

// Limiter holds a copy back; a *rate.Limiter of golang.org/x/time is one. WaitN
// waits until n more bytes, MaxRead at most, may be read, or ctx ends.
type Limiter interface {
	WaitN(ctx context.Context, n int) error
}

// MaxRead is the largest number of bytes that a Limiter is asked for at once.
const MaxRead = bufferSize
