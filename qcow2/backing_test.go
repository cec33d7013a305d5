package qcow2

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Chains of images that have nothing in common but the disk: each with its own
// size of clusters, size of the disk and compression, on a raw file, too.
func TestRandomBackingFiles(t *testing.T) {
	r := newRand(t)
	for range 5 {
		testBackingFiles(t, r)
	}
}

func testBackingFiles(t *testing.T, r *rand.Rand) {
	t.Helper()
	dir := t.TempDir()
	raw := make([]byte, 512*(1+r.Int64N(8<<20/512)))
	var o Options
	if r.IntN(2) == 0 {
		fillMixed(r, raw)
		writeFile(t, filepath.Join(dir, "base"), raw)
		o.BackingFile, o.BackingFormat = "base", "raw"
	}
	for i := range 3 {
		size := 512 * (1 + r.Int64N(8<<20/512))
		shown := make([]byte, size) // zeros behind the end of a shorter backing file
		copy(shown, raw)
		raw = shown
		o.VirtualSize, o.ClusterSize, o.NewCompressor = size, minClusterSize<<r.IntN(10), frames(r.IntN(2) == 0)
		m := randomModel(r, raw, o.ClusterSize)
		name := strconv.Itoa(i) + ".qcow2"
		w, f := newImage(t, dir, name, o)
		m.play(t, w, 1+r.IntN(4))
		finish(t, w, f)
		writeFile(t, filepath.Join(dir, "shown"), raw)
		checkHeader(t, filepath.Join(dir, name), o)
		t.Logf("%s: %+v", name, o) // before the judge, who ends the test
		judge(t, filepath.Join(dir, name), filepath.Join(dir, "shown"))
		o.BackingFile, o.BackingFormat = name, "qcow2"
	}
}

// The mark of an image stays while QEMU writes to it and changes its header, and is in no copy of what
// the image shows.
func TestMark(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "base"), make([]byte, 1<<20))
	path, base := filepath.Join(dir, "image.qcow2"), filepath.Join(dir, "base")
	w, f := newImage(t, dir, "image.qcow2", Options{VirtualSize: 1 << 20, BackingFile: "base", BackingFormat: "raw", Mark: "whose it is"})
	finish(t, w, f)
	want := func(path, mark string) {
		t.Helper()
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if h, err := ReadHeader(f); h.Mark != mark || err != nil {
			t.Errorf("the mark of %s is %q, error %v", path, h.Mark, err)
		}
	}
	want(path, "whose it is")
	for _, command := range [][]string{
		{"qemu-io", "-f", "qcow2", "-c", "write 0 64k", path},
		{"qemu-img", "rebase", "-f", "qcow2", "-b", "", path},
		{"qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", base, path},
		{"qemu-img", "resize", "-f", "qcow2", path, "2M"},
		{"qemu-img", "check", "-f", "qcow2", path},
	} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v: %s", command, err, out)
		}
		want(path, "whose it is")
	}
	if out, err := exec.Command("qemu-img", "convert", "-O", "qcow2", path, path+"2").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want(path+"2", "")
	if err := (Options{VirtualSize: 512, Mark: strings.Repeat("x", maxMark+1)}).Validate(); err == nil {
		t.Error("a mark that is too long")
	}
}
