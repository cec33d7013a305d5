//go:build cgo

package nbdcopy

import (
	"context"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/flatten"
	"github.com/virtbackup/virtbackup/qcow2/chain"
)

// Whether the last cluster that held data and is clean still holds it.
func TestTailChanged(t *testing.T) {
	const size = "1073742336" // 1 GiB and a sector
	before := []string{"write -P 1 0 1M", "write -P 2 600M 256k", "write -P 3 1073741824 512"}
	tests := []struct {
		name   string
		seen   []string // by the bitmap
		unseen []string
		offset int64
		change bool
	}{
		{"nothing changed", nil, nil, 1 << 30, false},
		{"the end is lost", nil, []string{"discard 512M 536871424"}, 1 << 30, true},
		{"the last sector is lost", nil, []string{"write -z 1073741824 512"}, 1 << 30, true},
		{"lost, and written since", []string{"write -P 4 1073741824 512"}, []string{"write -z 600M 256k"}, 600<<20 + 192<<10, true},
		{"written since", []string{"write -P 4 1073741824 512", "write -P 4 614592k 4k"}, nil, 600<<20 + 128<<10, false},
		{"lost, right behind what was written since", []string{"write -P 4 1073741824 512", "write -P 4 614528k 64k"}, []string{"write -z 614592k 64k"},
			600<<20 + 192<<10, true},
		{"all written since", []string{"write -z 0 1M", "discard 600M 256k", "write -P 4 1073741824 512"}, nil, 0, false},
		{"grown within the last cluster", nil, []string{"RESIZE 2G", "write -P 5 1073742336 512"}, 1 << 30, false},
		{"only zeros are lost", nil, []string{"discard 700M 100M"}, 1 << 30, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := image(t, "qcow2", size, before...)
			old := path + ".old"
			run(t, "cp", path, old)
			run(t, "qemu-img", "bitmap", "--add", "--enable", path, "b")
			change(t, "qcow2", path, tt.seen...)
			run(t, "qemu-img", "bitmap", "--disable", path, "b")
			for _, c := range tt.unseen {
				if to, ok := strings.CutPrefix(c, "RESIZE "); ok {
					run(t, "qemu-img", "resize", "-q", "-f", "qcow2", path, to)
					continue
				}
				change(t, "qcow2", path, c)
			}
			f, err := os.Open(old)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			images, err := chain.Open([]io.ReaderAt{f})
			if err != nil {
				t.Fatal(err)
			}
			s := qemuNBD(t, "qcow2", path, "--bitmap=b")
			e, err := Open(context.Background(), Source{Socket: s.socket, Export: "vda", Bitmap: "b"})
			if err != nil {
				t.Fatal(err)
			}
			offset, changed, err := flatten.TailChanged(context.Background(), images, e)
			if err != nil || offset != tt.offset || changed != tt.change {
				t.Errorf("got %d, %v, %v, want %d, %v", offset, changed, err, tt.offset, tt.change)
			}
			s.kill()
			if _, _, err := flatten.TailChanged(context.Background(), images, e); err == nil && tt.offset > 0 {
				t.Error("no error although the server is gone")
			}
			e.Close()
		})
	}
	s := qemuNBD(t, "qcow2", image(t, "qcow2", "1M"))
	e, err := Open(context.Background(), Source{Socket: s.socket, Export: "vda"})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if _, err := e.CleanClusters(context.Background(), 0, 1<<20, 1<<16); err == nil {
		t.Error("no error without a bitmap")
	}
}
