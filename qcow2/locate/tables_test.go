package locate

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/virtbackup/virtbackup/qcow2"
)

// What qemu-img says is data is in no table, and all else is.
func TestTables(t *testing.T) {
	for _, options := range []string{"cluster_size=65536", "cluster_size=4096", "cluster_size=2097152", "cluster_size=65536,extended_l2=on"} {
		image := filepath.Join(t.TempDir(), "image.qcow2")
		const size = 40<<20 + 512
		qemu(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", options, image, fmt.Sprint(size))
		qemu(t, "qemu-io", "-f", "qcow2", "-c", "write -q -P 1 33M 5M", "-c", "write -q -P 2 0 3M", image)
		var extents []mapped
		if err := json.Unmarshal(qemu(t, "qemu-img", "map", "--output=json", "-f", "qcow2", image), &extents); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(image)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		h, err := qcow2.ReadHeader(f)
		if err != nil {
			t.Fatal(err)
		}
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		var tables []qcow2.Range
		Tables(f, h, func(r qcow2.Range) { tables = append(tables, r) })
		for at := int64(0); at < info.Size(); at += int64(h.ClusterSize) {
			inTable := slices.ContainsFunc(tables, func(r qcow2.Range) bool { return at < r.End() && r.Offset < at+int64(h.ClusterSize) })
			isData := slices.ContainsFunc(extents, func(e mapped) bool {
				return e.Data && at < e.Offset+e.Length && e.Offset < at+int64(h.ClusterSize)
			})
			if isData && inTable {
				t.Errorf("%s: cluster at %d is data", options, at)
			}
		}
		// The judge of L2 tables: the walk of Disk, which knows them by another way.
		for at := int64(h.ClusterSize); at < info.Size(); at += int64(h.ClusterSize) {
			disk, _, err := Disk(f, h, []qcow2.Range{{Offset: at, Length: int64(h.ClusterSize)}})
			if err != nil {
				t.Fatal(err)
			}
			isData := slices.ContainsFunc(extents, func(e mapped) bool {
				return e.Data && at < e.Offset+e.Length && e.Offset < at+int64(h.ClusterSize)
			})
			if len(disk[0]) > 0 && !isData && !slices.ContainsFunc(tables, func(r qcow2.Range) bool { return r.Offset <= at && at < r.End() }) {
				t.Errorf("%s: the table at %d is not found", options, at)
			}
		}
		if !slices.ContainsFunc(tables, func(r qcow2.Range) bool { return r.Offset == h.RefcountTableOffset }) {
			t.Errorf("%s: no refcount table in %v", options, tables)
		}
		h.L1Offset, h.RefcountTableOffset = info.Size()*2, 1<<60 // leads nowhere
		Tables(f, h, func(qcow2.Range) {})
	}
}
