package localimage

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A file keeps its identity when it is written to or moved. A copy has another identity,
// even at the same path.
func TestIdentify(t *testing.T) {
	dir := t.TempDir()
	path, moved := filepath.Join(dir, "disk"), filepath.Join(dir, "moved")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(path, "one")
	first := Identify(path)
	if !strings.HasPrefix(first, "file:") {
		t.Fatalf("identity %q", first)
	}
	write(path, "two")
	link := filepath.Join(dir, "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if Identify(path) != first || Identify(link) != first {
		t.Errorf("got %q, by a link %q, want %q", Identify(path), Identify(link), first)
	}
	if err := os.Rename(path, moved); err != nil {
		t.Fatal(err)
	}
	write(path, "two")
	if Identify(moved) != first || Identify(path) == first {
		t.Errorf("moved %q, another one %q, first %q", Identify(moved), Identify(path), first)
	}
	for _, path := range []string{filepath.Join(dir, "absent"), dir, "/dev/null", "rbd:pool/image"} {
		if got := Identify(path); got != "" {
			t.Errorf("%s: %q", path, got)
		}
	}
}

// The data file of a qcow2 image distinguishes it, and only that of a qcow2 image is looked for: what a
// guest has written to a raw one names no files.
func TestIdentifyImage(t *testing.T) {
	dir := t.TempDir()
	path, data := filepath.Join(dir, "image"), filepath.Join(dir, "data")
	create := func(options ...string) {
		t.Helper()
		if out, err := exec.Command("qemu-img", append(append([]string{"create", "-q", "-f", "qcow2"}, options...), path, "1M")...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	create()
	if got := IdentifyImage(path, "qcow2"); got != Identify(path) || got == "" {
		t.Errorf("without a data file: %q", got)
	}
	create("-o", "data_file="+data)
	first := IdentifyImage(path, "qcow2")
	if first != Identify(path)+",data:"+Identify(data) {
		t.Errorf("with a data file: %q", first)
	}
	if err := os.WriteFile(data+".new", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(data+".new", data); err != nil {
		t.Fatal(err)
	}
	if got := IdentifyImage(path, "qcow2"); got == first {
		t.Errorf("with another data file: %q", got)
	}
	if got := IdentifyImage(path, "raw"); got != Identify(path) {
		t.Errorf("as a raw image: %q", got)
	}
	if got := IdentifyImage(filepath.Join(dir, "absent"), "qcow2"); got != "" {
		t.Errorf("of no file: %q", got)
	}
}

func TestWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file="+path+".data", path, "1M").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	for _, path := range []string{path, path + ".data"} {
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	const one = "1767323045000000006"
	for want, image := range map[string][2]string{one + "+" + one: {path, "qcow2"}, one: {path, "raw"}, "": {"/dev/null", "raw"}} {
		if got := Written(image[0], image[1]); got != want {
			t.Errorf("%s: %q, want %q", image, got, want)
		}
	}
	if got := Written(path+".absent", "raw"); got != "" {
		t.Errorf("of no file: %q", got)
	}
}
