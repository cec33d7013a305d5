package shutoff

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtbackup/virtbackup/internal/qemuimg"
)

// The estimate for bitmaps is at least what they come to take, all granules dirty.
func TestBitmapBytes(t *testing.T) {
	for _, size := range []int64{64 << 10, 1 << 30, 64 << 30} {
		path := filepath.Join(t.TempDir(), "image")
		must(t, qemuimg.Create(path, "qcow2", size))
		must(t, qemuimg.AddBitmap(path, "first", 64<<10))
		chain, err := qemuimg.Chain(context.Background(), path, "qcow2", false)
		must(t, err)
		before := fileSize(t, path)
		most := bitmapBytes(chain[0], append(chain[0].QCOW2.Bitmaps, qemuimg.Bitmap{Granularity: 64 << 10}))
		must(t, qemuimg.AddBitmap(path, "second", 64<<10))
		if grown := fileSize(t, path) - before; grown > most || most > 2<<20+4*(size/(64<<10)/8) {
			t.Errorf("a disk of %d bytes: it has grown by %d bytes, and the estimate was %d", size, grown, most)
		}
	}
}

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	return info.Size()
}
