package qcow2

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestOptions(t *testing.T) {
	long := strings.Repeat("x", maxBackingName)
	for _, test := range []struct {
		name string
		o    Options
		want string // in the error; "" means none
	}{
		{"defaults", Options{VirtualSize: 1 << 30}, ""},
		{"nothing", Options{}, ""},
		{"overlay", Options{VirtualSize: 512, BackingFile: "../check1/vda.qcow2", BackingFormat: "qcow2"}, ""},
		{"longest name", Options{ClusterSize: 4096, BackingFile: long, BackingFormat: "raw"}, ""},
		{"colon behind a slash", Options{BackingFile: "./a:b", BackingFormat: "raw"}, ""},
		{"small cluster", Options{ClusterSize: 2048}, "cluster size 2048"},
		{"large cluster", Options{ClusterSize: 4 << 20}, "cluster size 4194304"},
		{"odd cluster", Options{ClusterSize: 65535}, "cluster size 65535"},
		{"negative cluster", Options{ClusterSize: -65536}, "cluster size -65536"},
		{"half a sector", Options{VirtualSize: 1000}, "virtual size 1000"},
		{"negative size", Options{VirtualSize: -512}, "virtual size -512"},
		{"too large", Options{VirtualSize: 8 << 40, ClusterSize: 4096}, "more than the"},
		{"no format", Options{BackingFile: "a"}, "neither qcow2 nor raw"},
		{"other format", Options{BackingFile: "a", BackingFormat: "vmdk"}, `"vmdk"`},
		{"format alone", Options{BackingFormat: "raw"}, "without a backing file"},
		{"long name", Options{BackingFile: long + "x", BackingFormat: "raw"}, "1024 bytes"},
		{"NUL in the name", Options{BackingFile: "a\x00b", BackingFormat: "raw"}, "NUL"},
		{"compressed", Options{NewCompressor: frames(true)}, ""},
		{"too large to compress", Options{NewCompressor: frames(true), VirtualSize: 1 << 50, ClusterSize: 2 << 20}, "more than the"},
		{"protocol", Options{BackingFile: "nbd:localhost/a", BackingFormat: "raw"}, "protocol"},
		{"socket of another host", Options{BackingFile: "nbd+unix://host/vda?socket=/s", BackingFormat: "raw"}, "protocol"},
		{"socket without a format", Options{BackingFile: "nbd+unix:///vda?socket=/s"}, "backing format"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := NewWriter(&discardFile{}, test.o)
			switch {
			case test.want == "" && err != nil:
				t.Error(err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("error %v, want %q in it", err, test.want)
			}
		})
	}
}

// QEMU opens the largest disk of each cluster size, its last cluster included.
func TestLargestDisks(t *testing.T) {
	for _, clusterSize := range []int{4 << 10, 64 << 10, 2 << 20} {
		for _, compressed := range []bool{false, true} {
			dir := t.TempDir()
			o := Options{ClusterSize: clusterSize, NewCompressor: frames(compressed)}
			o.VirtualSize = o.maxVirtualSize()
			w, f := newImage(t, dir, "a.qcow2", o)
			if err := w.Write([]int64{(o.VirtualSize - 1) &^ int64(clusterSize-1)}, make([]byte, clusterSize)); err != nil {
				t.Fatal(err)
			}
			finish(t, w, f)
			qemuImg(t, "check", filepath.Join(dir, "a.qcow2"))
		}
	}
}

// The longest backing name that is allowed fits into the smallest cluster.
func TestLongestBackingName(t *testing.T) {
	dir := t.TempDir()
	name := strings.Repeat("./", (maxBackingName-5)/2) + "b.raw"
	o := Options{VirtualSize: 1 << 20, ClusterSize: 4096, BackingFile: name, BackingFormat: "raw"}
	newSparseModel(t, filepath.Join(dir, "b.raw"), 1<<20)
	w, f := newImage(t, dir, "a.qcow2", o)
	finish(t, w, f)
	checkHeader(t, f.file.Name(), o)
	qemuImg(t, "check", f.file.Name())
	qemuImg(t, "compare", "-f", "qcow2", "-F", "raw", f.file.Name(), filepath.Join(dir, "b.raw"))
}
