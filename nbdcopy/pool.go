package nbdcopy

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pool is a fixed set of equal buffers, page-aligned so that a sink may write
// them with O_DIRECT, and outside of Go's heap because libnbd fills them while no
// Go call is running (cgo forbids C to keep Go memory).
//
// The memory asks for huge pages. The kernel pins every page of a write with O_DIRECT and
// gives the device each as a piece of its own: 256 pieces for 1 MiB, or one. Measured on
// a full of 2 GiB, five runs in turns on a busy machine: 14 % less processor time (1.13
// and 0.96 s a GiB); the writes are 6 % of it instead of 13 %.
type pool struct {
	mem  []byte
	free chan []byte
}

// hugePage is how large one is, and what its address is a multiple of, in bytes. It is
// that of x86-64, and of arm64 with pages of 4 KiB; where it is another one, or there are
// none, the memory has small pages.
const hugePage = 2 << 20

func newPool(count, size int) (*pool, error) {
	mem, err := unix.Mmap(-1, 0, count*size+hugePage, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("allocate %d buffers of %d bytes: %w", count, size, err)
	}
	_ = unix.Madvise(mem, unix.MADV_HUGEPAGE) // advice: a kernel may not know it
	p := &pool{mem: mem, free: make(chan []byte, count)}
	start := -int(uintptr(unsafe.Pointer(&mem[0]))) & (hugePage - 1)
	for i := range count {
		at := start + i*size
		p.free <- mem[at : at+size : at+size]
	}
	return p, nil
}

// put gives a buffer back. It never blocks.
func (p *pool) put(buf []byte) { p.free <- buf[:cap(buf)] }

// release unmaps all buffers. None may be used after it.
func (p *pool) release() error { return unix.Munmap(p.mem) }
