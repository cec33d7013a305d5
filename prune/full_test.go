package prune

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/tests/testfs"
)

// On a file system without a free block there is no room to try out what it can do.
func TestMaterialiseOnAFullFileSystem(t *testing.T) {
	dir := testfs.Ext4(t, 64<<20)
	w := newWorldIn(t, dir)
	ids := w.nights(2)
	f, err := os.Create(filepath.Join(dir, "rest"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size >= 512; {
		if _, err := f.Write(make([]byte, size)); localfile.IsFull(err) {
			size /= 2
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	_, err = Materialise(context.Background(), w.repo, "vm1", ids[1], Options{})
	if err == nil || fail.Is(err, fail.Bug) {
		t.Errorf("got %v", err)
	}
}
