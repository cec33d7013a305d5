package qcow2

import (
	"testing"
)

// No image gets larger than was said, in whatever order it is written, and none is much
// smaller.
func TestFileBytes(t *testing.T) {
	r := newRand(t)
	for clusterSize := minClusterSize; clusterSize <= MaxClusterSize; clusterSize *= 2 {
		for range 6 {
			raw := make([]byte, 512*(1+r.Int64N(20<<20/512)))
			o := Options{VirtualSize: int64(len(raw)), ClusterSize: clusterSize, BackingFile: "b", BackingFormat: "raw"}
			o.Frames = r.IntN(2) == 0
			m := randomModel(r, raw, clusterSize)
			w, f := newImage(t, t.TempDir(), "a.qcow2", o)
			m.play(t, w, 4)
			c := contentOf(w)
			stats := finish(t, w, f)
			spare := int64(max(segmentSize, clusterSize))
			if o.Frames {
				spare = 3*spare + c.FrameBytes/16
			}
			if o.Frames && clusterSize > 64<<10 { // a frame that does not fit may cost most of a segment
				spare += stats.FileBytes
			}
			if most := o.FileBytes(c); stats.FileBytes > most || stats.FileBytes+spare < most {
				t.Errorf("clusters of %d bytes, %+v, frames %v: a file of %d bytes, said were %d", clusterSize, c, o.Frames, stats.FileBytes, most)
			}
		}
	}
}

// contentOf counts what a Writer was given.
func contentOf(w *Writer) (c Content) {
	c.ZeroTables = 0
	for i, home := range w.tables.l1 {
		e := w.tables.resident[i]
		switch {
		case home == tableZero:
			c.ZeroTables++
		case e != nil:
			c.Tables++
			c.table(e.Value.(*table).entries, w.options.ClusterSize)
		}
	}
	return c
}

// table counts the clusters of an L2 table.
func (c *Content) table(entries []byte, clusterSize int) {
	h := Header{ClusterSize: clusterSize}
	for ; len(entries) > 0; entries = entries[8:] {
		f := fields{p: entries}
		entry := f.u64(0)
		switch {
		case IsCompressed(entry):
			length := h.DataOf(entry).Length
			c.FrameBytes, c.LargestFrame = c.FrameBytes+length, max(c.LargestFrame, length)
		case HasData(entry):
			c.Clusters++
		}
	}
}

// Large images: the stream takes longer runs, and refcount blocks are many.
func TestFileBytesOfLargeImages(t *testing.T) {
	for _, tt := range []struct {
		o           Options
		c           Content
		least, most int64
	}{
		{Options{}, Content{}, 3 << 16, 3 << 16}, // header, refcounts
		{Options{VirtualSize: 1 << 40}, Content{Clusters: 1 << 24, Tables: 2048}, 1<<40 + (2048+512)<<16, 1<<40 + (2048+512+40)<<16},
		{Options{VirtualSize: 1 << 40, Frames: true}, Content{Clusters: 1 << 20, FrameBytes: 300 << 30, LargestFrame: 60 << 10, Tables: 2048}, 364 << 30, 364<<30 + 9<<30},
		{Options{VirtualSize: 1 << 40, Frames: true}, Content{FrameBytes: 1 << 29, LargestFrame: 60 << 10, Tables: 1}, 1 << 29, 1<<29 + 9<<20},
	} {
		if n := tt.o.FileBytes(tt.c); n < tt.least || n > tt.most {
			t.Errorf("%+v: %d bytes, want %d to %d", tt.c, n, tt.least, tt.most)
		}
	}
}
