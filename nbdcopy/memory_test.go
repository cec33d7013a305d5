package nbdcopy

import (
	"context"
	"io"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"github.com/virtbackup/virtbackup/extent"
	"github.com/virtbackup/virtbackup/qcow2"
)

// alternating is a status of which every other run of 832 KiB is set: 10 million
// of them in 8 TiB. Replies are as long as QEMU's longest (nbd/server.c,
// NBD_MAX_BLOCK_STATUS_EXTENTS).
func alternating(_ context.Context, offset, length int64) ([]entry, error) {
	const run, longest = 13 * 64 << 10, 131072
	var entries []entry
	for end := offset + length; offset < end && len(entries) < longest; {
		n := run - offset%run
		entries = append(entries, entry{n, uint32(offset/run) & 1})
		offset += n
	}
	return entries, nil
}

func allZero(_ context.Context, _, length int64) ([]entry, error) {
	return []entry{{length, stateZero}}, nil
}

// discard is a file that keeps nothing: no L2 table is ever read back in guest
// order.
type discard struct{}

func (discard) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (discard) ReadAt([]byte, int64) (int, error)      { return 0, io.EOF }

// A disk of 8 TiB with ten million extents, clean and dirty in turns, so that the
// image has an entry in each of its 16384 L2 tables (1 GiB): they pass through
// the planner and the image writer, and memory stays where it is.
//
// It runs in a process of its own: what earlier tests have taken from the system
// would count as well.
func TestMemoryDoesNotGrowWithExtents(t *testing.T) {
	const own = "NBDCOPY_TEST_OWN_PROCESS"
	if os.Getenv(own) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), own+"=1")
		out, err := cmd.CombinedOutput()
		t.Logf("%s", out)
		if err != nil {
			t.Error(err)
		}
		return
	}
	const cluster = 64 << 10
	size, want := int64(8<<40), 10_000_000
	if raceDetector {
		size, want = 1<<39, 600_000 // it is 40 times slower
	}
	w, err := qcow2.NewWriter(discard{}, qcow2.Options{VirtualSize: size, BackingFile: "base", BackingFormat: "qcow2"})
	if err != nil {
		t.Fatal(err)
	}
	x := &extents{size: size, cluster: cluster,
		dirty: &cursor{name: "dirty", status: alternating, size: size, window: bitmapWindow, flag: stateDirty},
		alloc: &cursor{name: "alloc", status: allZero, size: size, window: allocationWindow, flag: stateZero}}
	var seen int
	var peak uint64
	p := &planner{extents: x, sink: w, pool: testPool(t, 1, bufferSize), out: make(chan *batch, 1), report: func(extent.Extent) {
		if seen++; seen%100_000 == 0 {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak = max(peak, m.Sys)
		}
	}}
	if err := p.run(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Finish(nil); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d extents, %d MiB from the system at most", seen, peak>>20)
	if seen < want {
		t.Errorf("only %d extents", seen)
	}
	if limit := uint64(96 << 20); peak > limit {
		t.Errorf("%d bytes of memory, want at most %d", peak, limit)
	}
}
