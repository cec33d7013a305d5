package restore

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

const rawCluster = 64 << 10

// writes notes the writes that a sink makes.
type writes struct {
	done []string
	data [3 * rawCluster]byte
	err  error
}

func (w *writes) WriteAt(p []byte, at int64) (int, error) {
	w.done = append(w.done, fmt.Sprintf("%d+%d", at, len(p)))
	return copy(w.data[at:], p), w.err
}

// Neighbours are one write, and the padding of the last cluster is not written.
func TestRawImage(t *testing.T) {
	const size = 2*rawCluster + 512
	data := make([]byte, 3*rawCluster)
	for i := range data {
		data[i] = byte(1 + i/rawCluster)
	}
	tests := []struct {
		name    string
		offsets []int64
		want    string
	}{
		{"one", []int64{0}, "[0+65536]"},
		{"neighbours and the end", []int64{0, rawCluster, 2 * rawCluster}, "[0+131584]"},
		{"the end alone", []int64{2 * rawCluster}, "[131072+512]"},
		{"apart", []int64{0, 2 * rawCluster}, "[0+65536 131072+512]"},
		{"backwards", []int64{rawCluster, 0}, "[65536+65536 0+65536]"},
		{"none", nil, "[]"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := &writes{}
			if err := (&rawImage{file: w, size: size, cluster: rawCluster}).Write(tt.offsets, data[:len(tt.offsets)*rawCluster]); err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(w.done); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			for i, at := range tt.offsets {
				n := min(rawCluster, size-at)
				if !bytes.Equal(w.data[at:at+n], data[i*rawCluster:int64(i*rawCluster)+n]) {
					t.Errorf("offset %d holds something else", at)
				}
			}
		})
	}
	w := &writes{err: io.ErrShortWrite}
	if err := (&rawImage{file: w, size: size, cluster: rawCluster}).Write([]int64{0}, data[:rawCluster]); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("a write that fails: got %v", err)
	}
}

// A raw image is one hole at first, so zeros need no write and take no space.
func TestRawImageZeros(t *testing.T) {
	const size = 16*rawCluster + 512
	f, err := os.Create(filepath.Join(t.TempDir(), "raw"))
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(size))
	raw := &rawImage{file: f, size: size, cluster: rawCluster}
	data := bytes.Repeat([]byte{1}, rawCluster)
	must(t, raw.Write([]int64{3 * rawCluster}, data))
	must(t, raw.Zero(0, 3*rawCluster))
	must(t, raw.Zero(4*rawCluster, size-4*rawCluster))
	want := make([]byte, size)
	copy(want[3*rawCluster:], data)
	if got, err := os.ReadFile(f.Name()); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes that are not what was stored, %v", len(got), err)
	}
	var stat unix.Stat_t
	must(t, unix.Stat(f.Name(), &stat))
	if stat.Blocks*512 > 2*rawCluster || raw.data.Load() != rawCluster {
		t.Errorf("%d bytes allocated, %d counted as data", stat.Blocks*512, raw.data.Load())
	}
}
