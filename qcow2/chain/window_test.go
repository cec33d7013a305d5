package chain

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/qcow2"
)

// stateImage writes an image from text: d is a cluster of data, z a zero cluster.
func stateImage(t *testing.T, dir string, number int, text string) *os.File {
	t.Helper()
	const cluster = 4096
	o := qcow2.Options{VirtualSize: int64(len(text)) * cluster, ClusterSize: cluster}
	if number > 0 {
		o.BackingFile, o.BackingFormat = fmt.Sprint(number-1), "qcow2"
	}
	f, err := os.Create(filepath.Join(dir, fmt.Sprint(number)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	w, err := qcow2.NewWriter(f, o)
	for i, r := range text {
		if err == nil && r == 'd' {
			err = w.Write([]int64{int64(i) * cluster}, make([]byte, cluster))
		} else if err == nil && r == 'z' {
			err = w.Zero(int64(i)*cluster, cluster)
		}
	}
	if err == nil {
		_, err = w.Finish(nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestStates(t *testing.T) {
	for _, tt := range []struct {
		images []string // base first
		from   int      // the lowest image of the chain
		want   string
	}{
		{[]string{"d.d."}, 0, "d.d."},
		{[]string{"dd..", "z..z"}, 0, "zd.z"},
		{[]string{"dd..", "z..z"}, 1, "z..z"},
		{[]string{"dddd", "zz..", "d.z."}, 1, "dzz."},
		{[]string{"dd", "....d."}, 0, "ddzzdz"},
		{[]string{"dd", "....d."}, 1, "....d."},
		{[]string{"dddddd", "..", "...."}, 0, "ddzz"},
		{[]string{"dddddd", "..", "...."}, 1, "..zz"},
		{[]string{"dddd", "d"}, 1, "d"},
	} {
		dir := t.TempDir()
		var files []io.ReaderAt
		for i, text := range tt.images {
			files = append(files, stateImage(t, dir, i, text))
		}
		c, err := Open(files[tt.from:])
		if err != nil {
			t.Fatal(err)
		}
		w, err := c.Window(0)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for k := range w.Len() {
			got += map[State]string{Absent: ".", Zero: "z", Data: "d"}[w.State(k)]
		}
		runs := ""
		for k := 0; k < w.Len(); {
			end, state := w.Run(k)
			for ; k < end; k++ {
				runs += map[State]string{Absent: ".", Zero: "z", Data: "d"}[state]
			}
			if end < w.Len() && w.State(end) == state {
				t.Errorf("%q from %d on: the run before cluster %d goes on", tt.images, tt.from, end)
			}
		}
		if got != tt.want || runs != tt.want {
			t.Errorf("%q from %d on: %s, runs %s, want %s", tt.images, tt.from, got, runs, tt.want)
		}
	}
}

// Where a disk has grown since its base, a window takes no memory for its clusters.
func TestStatesOfAGrownDisk(t *testing.T) {
	var files []io.ReaderAt
	for i, size := range []int64{1 << 30, 1 << 40} {
		f, err := os.Create(filepath.Join(t.TempDir(), "image"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		o := qcow2.Options{VirtualSize: size}
		if i > 0 {
			o.BackingFile, o.BackingFormat = "base", "qcow2"
		}
		w, err := qcow2.NewWriter(f, o)
		if err == nil {
			_, err = w.Finish(nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	c, err := Open(files)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range []int64{2, 2047} {
		w, err := c.Window(i)
		if err != nil {
			t.Fatal(err)
		}
		if end, state := w.Run(5); w.cells != nil || end != 8192 || state != Zero {
			t.Errorf("window %d: %d clusters in memory, state %d up to %d", i, len(w.cells), state, end)
		}
	}
	if w, err := c.Window(1); w != nil || err != nil {
		t.Errorf("the end of the base: %v, %v", w, err)
	}
}

// Cells say which image has the data, and where: the bytes there are the cluster's.
func TestCells(t *testing.T) {
	for seed := range uint64(4) {
		rnd := rand.New(rand.NewPCG(seed, 8))
		const cluster = 4096
		images, shown := chainOf(t, rnd, cluster, 512*(1+rnd.Int64N(2048)), 512*(1+rnd.Int64N(2048)), 512*(1+rnd.Int64N(2048)))
		c, err := Open(images)
		if err != nil {
			t.Fatal(err)
		}
		w, err := c.Window(0)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[int]int{}
		for k := range w.Len() {
			layer, entry := w.Cell(k)
			if (entry != 0) != (w.State(k) == Data) {
				t.Fatalf("seed %d: cluster %d: entry %#x, state %d", seed, k, entry, w.State(k))
			}
			if entry == 0 || qcow2.IsCompressed(entry) {
				continue
			}
			seen[layer]++
			at := c.Header(layer).DataOf(entry)
			p := make([]byte, at.Length)
			if _, err := images[len(images)-1-layer].ReadAt(p, at.Offset); err != nil {
				t.Fatal(err)
			}
			end := min(w.At(k)+cluster, c.Visible(layer))
			if !bytes.Equal(p[:end-w.At(k)], shown[w.At(k):end]) {
				t.Fatalf("seed %d: cluster %d: image %d has something else at %d", seed, k, layer, at.Offset)
			}
		}
		if c.Images() != 3 || len(seen) == 0 && c.Header(0).Compression == 0 {
			t.Errorf("seed %d: saw %v of %d images", seed, seen, c.Images())
		}
	}
}

// An error is not kept: a window is looked up again.
func TestWindowsForgetErrors(t *testing.T) {
	var ws windows
	failure, looks := errors.New("not now"), 0
	look := func() (*Window, error) {
		if looks++; looks == 1 {
			return nil, failure
		}
		return &Window{}, nil
	}
	if _, err := ws.get(3, look); err != failure {
		t.Errorf("got %v", err)
	}
	for range 2 {
		if w, err := ws.get(3, look); err != nil || w == nil {
			t.Errorf("after the error: %v", err)
		}
	}
	if looks != 2 {
		t.Errorf("looked up %d times", looks)
	}
}

// Each caller has an error of its own, though they look up the same window: it may be changed by who
// explains it.
func TestWindowsShareNoErrors(t *testing.T) {
	var ws windows
	var looks atomic.Int32
	begun, goOn := make(chan struct{}), make(chan struct{})
	look := func() (*Window, error) {
		if looks.Add(1) == 1 {
			close(begun)
			<-goOn
		}
		return nil, &Error{errors.New("damaged")}
	}
	errs := make(chan error, 2)
	get := func() {
		_, err := ws.get(3, look)
		errs <- err
	}
	go get()
	<-begun
	go get()
	time.Sleep(50 * time.Millisecond) // until it waits, too
	close(goOn)
	if a, b := <-errs, <-errs; a == nil || b == nil || a == b {
		t.Errorf("got %v, %v: the same: %v", a, b, a == b)
	}
}

// What the top image itself says of a cluster: neither what lies below it nor what the end of an
// image below it makes zeros.
func TestInTop(t *testing.T) {
	for _, tt := range []struct {
		images []string // base first
		want   string   // t: said by the top image
	}{
		{[]string{"d.z."}, "t..."}, // without a backing file there is nothing that a zero cluster would hide
		{[]string{"dddd", "d.z."}, "t.t."},
		{[]string{"dddd", "zz..", "d.z."}, "t.t."},
		{[]string{"dd", "....dz"}, "....tt"},
		{[]string{"dddddd", "..", "...z"}, "...t"},
		{[]string{"dddd", "zd"}, "tt"},
	} {
		dir := t.TempDir()
		var files []io.ReaderAt
		for i, text := range tt.images {
			files = append(files, stateImage(t, dir, i, text))
		}
		c, err := Open(files)
		if err != nil {
			t.Fatal(err)
		}
		w, err := c.Window(0)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for k := range w.Len() {
			got += map[bool]string{false: ".", true: "t"}[w.InTop(k)]
		}
		if got != tt.want {
			t.Errorf("%q: %s, want %s", tt.images, got, tt.want)
		}
	}
	if w := (&Window{length: 5}); w.InTop(3) { // behind the end of an image below, without memory for its clusters
		t.Error("a window without cells is the top image's")
	}
}

// RunAt tells of each byte what the windows tell of its cluster, and runs end where the disk does.
func TestRunAt(t *testing.T) {
	for seed := range uint64(8) {
		rnd := rand.New(rand.NewPCG(seed, 10))
		images, shown := randomChain(t, rnd)
		c, err := Open(images)
		if err != nil {
			t.Fatal(err)
		}
		for range 300 {
			off := rnd.Int64N(c.Size())
			end, state, err := c.RunAt(off)
			if err != nil || end <= off || end > c.Size() || end < c.Size() && end%c.ClusterSize() != 0 {
				t.Fatalf("seed %d: the run at %d of %d ends at %d, %v", seed, off, c.Size(), end, err)
			}
			w, err := c.Window(off / c.WindowSize())
			if err != nil {
				t.Fatal(err)
			}
			for at := off; at < end; at += c.ClusterSize() {
				is := Absent
				if w != nil {
					is = w.State(int((at - w.Offset) / c.ClusterSize()))
				}
				if is != state {
					t.Fatalf("seed %d: the run from %d to %d is %d, at %d is %d", seed, off, end, state, at, is)
				}
			}
			if state != Data && len(bytes.Trim(shown[off:end], "\x00")) > 0 {
				t.Fatalf("seed %d: no zeros from %d to %d", seed, off, end)
			}
		}
		for _, off := range []int64{-1, c.Size(), c.Size() + 1} {
			if _, _, err := c.RunAt(off); err == nil {
				t.Errorf("seed %d: offset %d of %d is no error", seed, off, c.Size())
			}
		}
	}
}
