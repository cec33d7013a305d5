package testdomain

import (
	"os"
	"path/filepath"
	"testing"
)

func TestJudge(t *testing.T) {
	const wrote = "wrote 512/512 bytes at offset 0\n512 bytes, 1 ops; 00.00 sec (1 MiB/sec and 1 ops/sec)\n"
	write, two := []string{"write -P 1 0 512", "flush"}, []string{"write 0 512", "discard 0 512"}
	for _, c := range []struct {
		name     string
		commands []string
		out      string
		good     bool
	}{
		{"done", write, wrote, true},
		{"a client was killed", write, "2026-11-20T19:12:43.359364Z qemu-system-x86_64: Disconnect client, due to: Failed to send reply\n" +
			wrote + "2026-11-20T19:12:43.359364Z qemu-system-x86_64: write failed: Unable to write to socket: Broken pipe\n", true},
		{"nothing", write, "", false},
		{"in part", write, "wrote 100/512 bytes at offset 0\n", false},
		{"one of two", two, wrote, false},
		{"refused", write, "write failed: No space left on device\n", false},
		{"done, and then an error", write, wrote + "flush failed: Input/output error\n", false},
	} {
		if err := judge(c.commands, c.out); (err == nil) != c.good {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// A byte that differs, and one more, are seen wherever they are.
func TestCompare(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, size := range []int{0, 1, 1 << 20, 1<<20 + 1, 3 << 20} {
		data := make([]byte, size)
		a, b := file("a", data), file("b", data)
		if err := Compare(a, b); err != nil {
			t.Errorf("%d bytes that are the same: %v", size, err)
		}
		if longer := file("b", append(data, 0)); Compare(a, longer) == nil || Compare(longer, a) == nil {
			t.Errorf("%d bytes are the same as one more", size)
		}
		if size > 0 {
			data[size-1] = 1
			if Compare(a, file("b", data)) == nil {
				t.Errorf("of %d bytes the last one differs, and that is not seen", size)
			}
		}
	}
	if Compare(filepath.Join(dir, "a"), filepath.Join(dir, "none")) == nil {
		t.Error("a file that is not there is the same")
	}
}

// The header says what qemu-img has put there.
func TestHeaderOf(t *testing.T) {
	dir := t.TempDir()
	base, overlay := filepath.Join(dir, "base"), filepath.Join(dir, "overlay")
	Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", base, "5M")
	Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", overlay, "7M")
	if h := HeaderOf(t, base); h.BackingFileOffset != 0 || h.Size != 5<<20 {
		t.Errorf("an image that stands alone: %+v", h)
	}
	if h := HeaderOf(t, overlay); h.BackingFileOffset == 0 || h.Size != 7<<20 {
		t.Errorf("an image with a backing file: %+v", h)
	}
}
