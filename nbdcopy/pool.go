package nbdcopy

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// pool is a fixed set of equal buffers, page-aligned so that a sink may write
// them with O_DIRECT, and outside of Go's heap because libnbd fills them while no
// Go call is running (cgo forbids C to keep Go memory).
type pool struct {
	mem  []byte
	free chan []byte
}

func newPool(count, size int) (*pool, error) {
	mem, err := unix.Mmap(-1, 0, count*size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("allocate %d buffers of %d bytes: %w", count, size, err)
	}
	p := &pool{mem: mem, free: make(chan []byte, count)}
	for i := range count {
		p.free <- mem[i*size : (i+1)*size : (i+1)*size]
	}
	return p, nil
}

// put gives a buffer back. It never blocks.
func (p *pool) put(buf []byte) { p.free <- buf[:cap(buf)] }

// release unmaps all buffers. None may be used after it.
func (p *pool) release() error { return unix.Munmap(p.mem) }
