package offline

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/internal/qemuimg"
)

var someTime = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// The estimate for bitmaps is at least what they come to take, all granules dirty.
func TestBitmapBytes(t *testing.T) {
	for _, size := range []int64{64 << 10, 1 << 30, 64 << 30} {
		path := filepath.Join(t.TempDir(), "image")
		must(t, qemuimg.Create(path, "qcow2", size))
		must(t, qemuimg.AddBitmap(path, "first", granularity))
		chain, err := qemuimg.Chain(context.Background(), path, "qcow2", false)
		must(t, err)
		before := fileSize(t, path)
		most := bitmapBytes(chain[0])
		must(t, qemuimg.AddBitmap(path, "second", granularity))
		if grown := fileSize(t, path) - before; grown > most || most > 2<<20+4*(size/granularity/8) {
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

// The parent of a new checkpoint is the newest that has no child.
func TestNewest(t *testing.T) {
	doc := func(name, parent string, at int) string {
		if parent != "" {
			parent = "<parent><name>" + parent + "</name></parent>"
		}
		return fmt.Sprintf("<domaincheckpoint><name>%s</name>%s<creationTime>%d</creationTime><disks><disk name='vda' checkpoint='no'/></disks></domaincheckpoint>", name, parent, at)
	}
	for want, docs := range map[string][]string{
		"":   nil,
		"c1": {doc("c1", "", 10)},
		"c2": {doc("c1", "", 10), doc("c2", "c1", 5)}, // by a clock that was set back
		"c4": {doc("c1", "", 10), doc("c2", "c1", 20), doc("c3", "", 15), doc("c4", "c3", 30)},
	} {
		if got, err := newest(docs); err != nil || got != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
}
