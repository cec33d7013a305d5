// Package nbdcopy copies a disk that an NBD server exports: it asks block
// status what holds data, what reads as zeros and what changed, reads only
// that, over several connections with many requests in flight, and hands it to
// an [extent.Sink].
//
// A [Target] is the other way round: an export that a sink's calls are written into.
//
// It is the only package that uses libnbd; all but conn.go, reader.go, copy.go, look.go and
// target.go builds without cgo. The data path of a copy:
//
//	             status connections                  data connections
//	                    │                                  │
//	extents ──▶ planner ──batches──▶ readers ──filled──▶ writers ──▶ Sink
//	              ▲                                        │
//	              └───────────── free buffers ◀────────────┘
//
// The planner takes a buffer from the pool before it makes a batch, and a
// writer gives it back, so the pool bounds what is in flight, by bytes and by
// count, whatever the size of the disk or the number of its extents. A channel
// is crossed once a mebibyte, never once a cluster.
package nbdcopy
