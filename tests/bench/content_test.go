package bench

import (
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
	tib = 1 << 40
)

// random is incompressible data.
func random() io.Reader { return rand.NewChaCha8([32]byte{1}) }

// prose is data that compresses to about half: lines of words from a small
// vocabulary, each with a random number.
func prose() io.Reader { return &textReader{r: rand.New(rand.NewPCG(1, 1)), words: vocabulary()} }

type textReader struct {
	r     *rand.Rand
	words []string
	left  []byte // of the line that was cut
}

// Read fills p.
func (t *textReader) Read(p []byte) (int, error) {
	n := copy(p, t.left)
	t.left = t.left[n:]
	line := make([]byte, 0, 256)
	for n < len(p) {
		line = t.line(line[:0])
		m := copy(p[n:], line)
		t.left = append(t.left[:0], line[m:]...)
		n += m
	}
	return n, nil
}

func (t *textReader) line(line []byte) []byte {
	for range 6 {
		line = append(line, t.words[t.r.IntN(len(t.words))]...)
		line = append(line, ' ')
		line = strconv.AppendUint(line, t.r.Uint64N(1e7), 36)
		line = append(line, ' ')
	}
	return append(line, '\n')
}

// vocabulary makes words of three to nine letters.
func vocabulary() []string {
	r := rand.New(rand.NewPCG(2, 2))
	words := make([]string, 2000)
	for i := range words {
		var b strings.Builder
		for range 3 + r.IntN(7) {
			b.WriteByte("etaoinshrdlcumwfgypbvk"[r.IntN(22)])
		}
		words[i] = b.String()
	}
	return words
}

// runs is how many pieces the data of a disk is in, evenly spread.
const runs = 16

// newImage makes a qcow2 image of size bytes in dir, with data bytes of content
// in it, as an installer would have written it: in order.
func newImage(t *testing.T, dir string, size, data int64, content io.Reader) string {
	t.Helper()
	raw, image := filepath.Join(dir, "vda.raw"), filepath.Join(dir, "vda.qcow2")
	writeRuns(t, raw, size, data, content)
	testdomain.Tool(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image)
	if err := os.Remove(raw); err != nil {
		t.Fatal(err)
	}
	return image
}

// writeRuns makes a sparse file with data.
func writeRuns(t *testing.T, file string, size, data int64, content io.Reader) {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for i := range int64(runs) {
		w := io.NewOffsetWriter(f, size/runs*i)
		if _, err := io.CopyN(w, content, data/runs); err != nil {
			t.Fatal(err)
		}
	}
}

// runScript gives many commands to one qemu-io on an image that no QEMU has
// open. It keeps persistent bitmaps as QEMU does.
func runScript(t *testing.T, image string, commands []string) {
	t.Helper()
	p := start(t, strings.NewReader(strings.Join(commands, "\n")), nil, "qemu-io", "-f", "qcow2", image)
	p.wait(false)
	if out := p.output.String(); strings.Contains(out, "failed") || strings.Contains(out, "rror") {
		t.Fatalf("qemu-io %s: %s", image, out)
	}
}
