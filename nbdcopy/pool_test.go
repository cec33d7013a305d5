package nbdcopy

import (
	"testing"
	"unsafe"
)

func addressOf(p []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(p))) }

func TestPool(t *testing.T) {
	p := testPool(t, 3, 8192)
	first := <-p.free
	p.put(first)
	if addressOf(first)%hugePage != 0 {
		t.Errorf("the buffers begin at %#x: a huge page of theirs would begin elsewhere", addressOf(first))
	}
	seen := map[uintptr]bool{}
	for range 3 {
		buf := <-p.free
		if len(buf) != 8192 || cap(buf) != 8192 || addressOf(buf)%4096 != 0 || seen[addressOf(buf)] {
			t.Errorf("buffer of %d bytes, %d of capacity, at %#x", len(buf), cap(buf), addressOf(buf))
		}
		seen[addressOf(buf)] = true
		defer p.put(buf[:100])
	}
	select {
	case <-p.free:
		t.Error("a fourth buffer")
	default:
	}
}
