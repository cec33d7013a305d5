package flatten

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/virtbackup/virtbackup/extent"
	"github.com/virtbackup/virtbackup/extent/extenttest"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/qcow2/chain"
)

// image is what one image of a chain is made of.
type image struct {
	size    int64           // bytes
	extents []extent.Extent // data and zeros, in clusters of unit
}

// imageOf makes an image from text: d is a cluster of data, z a zero cluster, '.'
// one that the image says nothing of. The last cluster lacks cut bytes.
func imageOf(text string, cut int64) image {
	im := image{size: int64(len(text))*unit - cut}
	for i, r := range text {
		off := int64(i) * unit
		n := min(unit, im.size-off)
		switch r {
		case 'd':
			im.extents = append(im.extents, extenttest.Data(off, n))
		case 'z':
			im.extents = append(im.extents, extenttest.Zero(off, n))
		}
	}
	return im
}

// writeImages writes images, each chained onto the one before, and returns their
// paths. Data is another byte in each image.
func writeImages(t testing.TB, images ...image) []string {
	t.Helper()
	dir := t.TempDir()
	var paths []string
	for i, im := range images {
		o := qcow2.Options{VirtualSize: im.size, ClusterSize: unit}
		if i > 0 {
			o.BackingFile, o.BackingFormat = filepath.Base(paths[i-1]), "qcow2"
		}
		path := filepath.Join(dir, fmt.Sprintf("%d.qcow2", i))
		write(t, path, o, func(w *qcow2.Writer) {
			for _, e := range im.extents {
				must(t, store(w, e, im.size, byte('A'+i)))
			}
		})
		paths = append(paths, path)
	}
	return paths
}

// store gives an extent to a sink, data as clusters of one byte.
func store(sink extent.Sink, e extent.Extent, size int64, content byte) error {
	if e.Status == extent.Zero {
		return sink.Zero(e.Offset, e.Length)
	}
	var offsets []int64
	for off := e.Offset; off < e.End(); off += unit {
		offsets = append(offsets, off)
	}
	data := directio.Buffer(len(offsets) * unit)
	copy(data, bytes.Repeat([]byte{content}, int(min(e.End(), size)-e.Offset)))
	return sink.Write(offsets, data)
}

// write makes an image file.
func write(t testing.TB, path string, o qcow2.Options, fill func(*qcow2.Writer)) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	w, err := qcow2.NewWriter(f, o)
	must(t, err)
	fill(w)
	stats, err := w.Finish(nil)
	must(t, err)
	must(t, f.Truncate(stats.FileBytes))
}

// open opens a chain, the lowest image first.
func open(t testing.TB, paths ...string) *chain.Chain {
	t.Helper()
	var files []io.ReaderAt
	for _, path := range paths {
		f, err := os.Open(path)
		must(t, err)
		t.Cleanup(func() { _ = f.Close() })
		files = append(files, f)
	}
	images, err := chain.Open(files)
	must(t, err)
	return images
}

// shown is what a guest sees in an image with its backing files, by qemu-img.
func shown(t testing.TB, path string) []byte {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "raw")
	qemuImg(t, "convert", "-f", "qcow2", "-O", "raw", path, raw)
	data, err := os.ReadFile(raw)
	must(t, err)
	return data
}

func qemuImg(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img %q: %v: %s", args, err, out)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
