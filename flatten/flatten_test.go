package flatten

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/virtbackup/virtbackup/extent"
	"github.com/virtbackup/virtbackup/extent/extenttest"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/qcow2/chain"
)

// told is what a sink was told, as imageOf has it.
func told(t *testing.T, sink *extenttest.Recorder) string {
	text := bytes.Repeat([]byte{'.'}, int((sink.Size+unit-1)/unit))
	for _, e := range sink.Extents(t) {
		for off := e.Offset; off < e.End(); off += unit {
			text[off/unit] = "?zd"[e.Status]
		}
	}
	return string(text)
}

// copyOnto copies the images from number part on into a sink that shows what those
// below show, and checks that it then shows what the whole chain does.
func copyOnto(t *testing.T, paths []string, part int) *extenttest.Recorder {
	t.Helper()
	images := open(t, paths[part:]...)
	sink := &extenttest.Recorder{Cluster: unit, Size: images.Size(), Bytes: make([]byte, images.Size())}
	if part > 0 {
		copy(sink.Bytes, shown(t, paths[part-1]))
	}
	var copied atomic.Int64
	must(t, Copy(context.Background(), images, sink, func(n int64) { copied.Store(max(copied.Load(), n)) }))
	if !bytes.Equal(sink.Bytes, shown(t, paths[len(paths)-1])) {
		t.Errorf("from image %d on: the sink shows something else than the chain", part)
	}
	return sink
}

func TestCopy(t *testing.T) {
	tests := []struct {
		name   string
		images []image // the lowest first
		part   int     // the first image that is copied
		want   string
	}{
		{"one image", []image{imageOf("d.d..", 0)}, 0, "d.d.."},
		{"nothing", []image{imageOf("....", 0)}, 0, "...."},
		{"above below", []image{imageOf("dddd", 0), imageOf(".d..", 0), imageOf("...d", 0)}, 0, "dddd"},
		{"zeros hide data", []image{imageOf("dddd.", 0), imageOf(".zz.z", 0)}, 0, "dzzdz"},
		{"data above zeros", []image{imageOf("dddd", 0), imageOf("zzzz", 0), imageOf("d..d", 0)}, 0, "dzzd"},
		{"zeros above zeros", []image{imageOf("dddd", 0), imageOf("zz..", 0), imageOf(".zz.", 0)}, 0, "zzzd"},
		{"odd end, data", []image{imageOf("ddd", 512), imageOf("..d", 512)}, 0, "ddd"},
		{"odd end, zeros", []image{imageOf("ddd", 512), imageOf("..z", 512)}, 0, "ddz"},
		{"part: zeros and data", []image{imageOf("dddddd", 0), imageOf("dz....", 0), imageOf("..dz..", 0)}, 1, "dzdz.."},
		{"part: nothing", []image{imageOf("dddd", 0), imageOf("....", 0)}, 1, "...."},
		{"part: the top alone", []image{imageOf("dddd", 0), imageOf("zzzz", 0), imageOf("d..z", 0)}, 2, "d..z"},
		{"grown", []image{imageOf("dd", 0), imageOf("....d.", 0)}, 0, "ddzzdz"},
		{"grown, a part", []image{imageOf("dd", 0), imageOf("....d.", 0)}, 1, "....d."},
		{"shrunk", []image{imageOf("dddd", 0), imageOf("..", 0)}, 0, "dd"},
		// What the smaller image cut off must not come back.
		{"shrunk and grown", []image{imageOf("dddddd", 0), imageOf("...", 0), imageOf("......", 0)}, 0, "dddzzz"},
		{"shrunk and grown, a part", []image{imageOf("dddddd", 0), imageOf("...", 0), imageOf("......", 0)}, 1, "...zzz"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			sink := copyOnto(t, writeImages(t, tt.images...), tt.part)
			if got := told(t, sink); got != tt.want {
				t.Errorf("the sink was told %s, want %s", got, tt.want)
			}
		})
	}
}

// randomImages are a chain over some windows of 2 MiB, of sizes that go up and down.
func randomImages(rnd *rand.Rand) []image {
	images := make([]image, 1+rnd.IntN(5))
	for i := range images {
		im := image{size: 512 * (1 + rnd.Int64N(10<<20/512))}
		for off := int64(0); off < im.size; {
			n := min((1+rnd.Int64N(1<<rnd.IntN(10)))*unit, im.size-off)
			switch rnd.IntN(6) {
			case 0, 1:
				im.extents = append(im.extents, extenttest.Data(off, n))
			case 2:
				im.extents = append(im.extents, extenttest.Zero(off, n))
			}
			off += n
		}
		images[i] = im
	}
	return images
}

// Whatever a chain holds, a part of it copied onto what is below shows what the
// chain shows: into a sink that is overwritten, and into an image that is chained
// onto what is below, as a merge makes it. The judge is qemu-img.
func TestCopyRandom(t *testing.T) {
	for seed := range uint64(12) {
		rnd := rand.New(rand.NewPCG(seed, 9))
		paths := writeImages(t, randomImages(rnd)...)
		part := rnd.IntN(len(paths))
		copyOnto(t, paths, part)

		images := open(t, paths[part:]...)
		o := qcow2.Options{VirtualSize: images.Size(), ClusterSize: unit}
		if part > 0 {
			o.BackingFile, o.BackingFormat = filepath.Base(paths[part-1]), "qcow2"
		}
		merged := filepath.Join(filepath.Dir(paths[0]), "merged.qcow2")
		write(t, merged, o, func(w *qcow2.Writer) { must(t, Copy(context.Background(), images, w, func(int64) {})) })
		qemuImg(t, "check", "-q", merged)
		qemuImg(t, "compare", "-f", "qcow2", "-F", "qcow2", merged, paths[len(paths)-1])
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// countedFile counts the reads of an image.
type countedFile struct {
	io.ReaderAt
	reads *atomic.Int64
}

func (f countedFile) ReadAt(p []byte, off int64) (int, error) {
	f.reads.Add(1)
	return f.ReaderAt.ReadAt(p, off)
}

// Of a large disk that is nearly empty only what there is costs reads and calls,
// also where it has grown since its base.
func TestCopySparse(t *testing.T) {
	const size = 1 << 40
	for name, base := range map[string]int64{"as large as its base": size, "grown": 1 << 30} {
		dir := t.TempDir()
		var reads atomic.Int64
		var files []io.ReaderAt
		for i, virtual := range []int64{base, size} {
			o := qcow2.Options{VirtualSize: virtual}
			if i > 0 {
				o.BackingFile, o.BackingFormat = "0", "qcow2"
			}
			path := filepath.Join(dir, string(rune('0'+i)))
			write(t, path, o, func(w *qcow2.Writer) { must(t, w.Write([]int64{5 << 20}, make([]byte, 64<<10))) })
			f, err := os.Open(path)
			must(t, err)
			defer f.Close()
			files = append(files, countedFile{f, &reads})
		}
		images, err := chain.Open(files)
		must(t, err)
		reads.Store(0)
		sink := &extenttest.Recorder{Cluster: 64 << 10, Size: size}
		must(t, Copy(context.Background(), images, sink, func(int64) {}))
		want := []extent.Extent{extenttest.Data(5<<20, 64<<10)}
		if base < size {
			want = append(want, extenttest.Zero(base, size-base))
		}
		if got := sink.Extents(t); len(got) != len(want) || got[0] != want[0] || got[len(got)-1] != want[len(want)-1] {
			t.Errorf("%s: the sink was told %v, want %v", name, got, want)
		}
		// The L2 tables of the first window, twice where it has left the cache, and the cluster.
		if n := reads.Load(); n > 5 {
			t.Errorf("%s: %d reads", name, n)
		}
	}
}

// brokenFile fails to read.
type brokenFile struct {
	io.ReaderAt
	err atomic.Pointer[error]
}

func (f *brokenFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.err.Load(); err != nil {
		return 0, *err
	}
	return f.ReaderAt.ReadAt(p, off)
}

func TestCopyErrors(t *testing.T) {
	boom := errors.New("boom")
	paths := writeImages(t, imageOf("dddddddd", 0), imageOf("zz....dd", 0))
	failing := func(op string) func(string, int64) error {
		return func(o string, _ int64) error {
			if o == op {
				return boom
			}
			return nil
		}
	}
	for name, tt := range map[string]struct {
		fail func(op string, offset int64) error
		text string
	}{
		"write": {failing("write"), "store 6 clusters from guest offset 8192 on: boom"},
		"zero":  {failing("zero"), "store 8192 bytes of zeros at guest offset 0: boom"},
	} {
		sink := &extenttest.Recorder{Cluster: unit, Size: 8 * unit, Fail: tt.fail}
		err := Copy(context.Background(), open(t, paths...), sink, func(int64) {})
		if !errors.Is(err, boom) || !strings.HasPrefix(err.Error(), tt.text) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	f, err := os.Open(paths[0])
	must(t, err)
	defer f.Close()
	broken := &brokenFile{ReaderAt: f}
	images, err := chain.Open([]io.ReaderAt{broken})
	must(t, err)
	sink := &extenttest.Recorder{Cluster: unit, Size: 8 * unit}
	broken.err.Store(&boom)
	if err := Copy(context.Background(), images, sink, func(int64) {}); !errors.Is(err, boom) {
		t.Errorf("an image that cannot be read: %v", err)
	}
	broken.err.Store(nil)
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(boom)
	if err := Copy(ctx, images, sink, func(int64) {}); !errors.Is(err, boom) || len(sink.Writes()) > 0 {
		t.Errorf("cancelled: %v, %d writes", err, len(sink.Writes()))
	}
	sink.Cluster = 2 * unit
	if err := Copy(context.Background(), images, sink, func(int64) {}); err == nil || !strings.Contains(err.Error(), "clusters of 8192") {
		t.Errorf("other clusters: %v", err)
	}
	if _, err := Compare(images, sink); err == nil || !strings.Contains(err.Error(), "clusters of 8192") {
		t.Errorf("other clusters to compare with: %v", err)
	}
}
