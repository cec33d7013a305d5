package storagedaemon

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/internal/qemuimg"
)

// Nobody writes to a raw image either while a reader has it open.
func TestRawReaderExcludesWriters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.raw")
	must(t, qemuimg.Create(path, "raw", 1<<20))
	ctx := context.Background()
	chain, err := qemuimg.Chain(ctx, path, "raw", false)
	must(t, err)
	d := start(t, false)
	disk, err := d.Open(ctx, "vda", chain, false)
	must(t, err)
	must(t, disk.Export(ctx, "", false))
	out, err := exec.Command("qemu-io", "-f", "raw", "-c", "write 0 4k", path).CombinedOutput()
	if err == nil || !strings.Contains(string(out), `"write" lock`) {
		t.Errorf("%v: %s", err, out)
	}
	// QEMU asks for permission to write when there is somebody who writes: with the export.
	write := func(name string) error {
		writer := start(t, true)
		disk, err := writer.Open(ctx, name, chain, true)
		must(t, err)
		return disk.Export(ctx, "", true)
	}
	if err := write("vda"); !errors.Is(err, qemuimg.ErrLocked) {
		t.Errorf("a writer: %v", err)
	}
	must(t, d.Close())
	must(t, write("vda"))
	other := start(t, false)
	if _, err := other.Open(ctx, "vda", chain, false); !errors.Is(err, qemuimg.ErrLocked) {
		t.Errorf("a reader beside a writer: %v", err)
	}
}
