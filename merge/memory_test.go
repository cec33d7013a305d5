package merge

import (
	"context"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
)

// A merge of many images of a large disk takes no more memory than one of a few.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 100 MiB")
	}
	const size, perTable = 64 << 30, 8192
	w := newWorld(t, 1, 65536)
	for i := range 40 {
		w.add(size, i%2 == 0, func(p *painter) {
			for at := i * perTable; at < size/65536; at += perTable * (1 + 12*min(i, 1)) {
				p.data(at+i, 1+i%20, i%3 == 0)
			}
		})
	}
	defer debug.SetGCPercent(debug.SetGCPercent(20))
	before := heap()
	var mu sync.Mutex
	var peak, calls int64
	_, err := Rewrite(context.Background(), w.run(1, 39), w.create("merged"), Options{Progress: func(int64) {
		mu.Lock()
		defer mu.Unlock()
		if calls++; calls%64 == 0 {
			peak = max(peak, heap())
		}
	}})
	must(t, err)
	if took := peak - before; took > 80<<20 || peak == 0 {
		t.Errorf("it took %d MiB", took>>20)
	} else {
		t.Logf("it took %d MiB", took>>20)
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
