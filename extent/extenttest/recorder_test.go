package extenttest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/virtbackup/virtbackup/extent"
)

// failures collects what a test would fail with.
type failures struct {
	testing.TB
	texts []string
}

func (f *failures) Helper() {}

func (f *failures) Errorf(format string, args ...any) {
	f.texts = append(f.texts, fmt.Sprintf(format, args...))
}

// aligned returns page-aligned memory.
func aligned(n int) []byte {
	p := make([]byte, n+4096)
	skip := -int(uintptr(unsafe.Pointer(&p[0]))) & 4095
	return p[skip : skip+n]
}

const cluster = 4096

func TestRecorder(t *testing.T) {
	tail := aligned(cluster)
	tail[512] = 1
	for _, tt := range []struct {
		name string
		call func(extent.Sink) // on a disk of two clusters and 512 bytes
		text string            // "": keeps the contract
	}{
		{"good", func(s extent.Sink) { _ = s.Write([]int64{0}, aligned(cluster)); _ = s.Zero(cluster, cluster+512) }, ""},
		{"too little data", func(s extent.Sink) { _ = s.Write([]int64{0}, aligned(2*cluster)) }, "1 clusters with 8192 bytes"},
		{"not aligned", func(s extent.Sink) { _ = s.Write([]int64{0}, aligned(2 * cluster)[8:][:cluster]) }, "not page-aligned"},
		{"inside of a cluster", func(s extent.Sink) { _ = s.Write([]int64{512}, aligned(cluster)) }, "write at 512"},
		{"behind the end", func(s extent.Sink) { _ = s.Write([]int64{3 * cluster}, aligned(cluster)) }, "write at 12288"},
		{"a tail", func(s extent.Sink) { _ = s.Write([]int64{2 * cluster}, tail) }, "the tail at 8192 is not zero"},
		{"zeros behind the end", func(s extent.Sink) { _ = s.Zero(2*cluster, cluster) }, "zero [8192, +4096)"},
		{"a part of a cluster", func(s extent.Sink) { _ = s.Zero(0, 512) }, "zero [0, +512)"},
		{"no zeros", func(s extent.Sink) { _ = s.Zero(0, 0) }, "zero [0, +0)"},
		{"twice", func(s extent.Sink) { _ = s.Zero(0, 2*cluster); _ = s.Zero(cluster, cluster) }, "overlaps"},
	} {
		r := &Recorder{Cluster: cluster, Size: 2*cluster + 512}
		tt.call(r)
		f := &failures{TB: t}
		got := r.Extents(f)
		if ok := len(f.texts) == 0; ok != (tt.text == "") || !ok && !strings.Contains(f.texts[0], tt.text) {
			t.Errorf("%s: %q, want %q", tt.name, f.texts, tt.text)
		}
		if want := []extent.Extent{Data(0, cluster), Zero(cluster, cluster+512)}; tt.text == "" && !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
}
