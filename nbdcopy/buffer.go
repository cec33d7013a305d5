//go:build cgo

package nbdcopy

import (
	"unsafe"

	"libguestfs.org/libnbd"
)

// aioBuffer lends p to libnbd. p is memory of a pool, outside of Go's heap, and
// must live until the request has completed or the connection is closed.
func aioBuffer(p []byte) libnbd.AioBuffer {
	return libnbd.AioBuffer{P: unsafe.Pointer(unsafe.SliceData(p)), Size: uint(len(p))}
}
