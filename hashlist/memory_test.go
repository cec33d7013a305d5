package hashlist

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/internal/directio"
)

// growing is a file in memory.
type growing struct{ content []byte }

func (g *growing) WriteAt(p []byte, off int64) (int, error) {
	if missing := int(off) + len(p) - len(g.content); missing > 0 {
		g.content = append(g.content, make([]byte, missing)...)
	}
	return copy(g.content[off:], p), nil
}

func (g *growing) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(g.content).ReadAt(p, off)
}

// pieces reads a file in memory as directio.Reader reads one on disk.
type pieces []byte

func (p pieces) ReadPiece(buf []byte, offset int64) (int, error) {
	n, err := bytes.NewReader(p).ReadAt(buf, offset)
	if err == io.EOF {
		err = nil
	}
	return n, err
}

func (pieces) Forget(_, _ int64) {}

// Lists need no files: written, read and checked in memory they say which range of an
// image is damaged, and nothing of a range that differs from its hash is returned.
func TestListsInMemory(t *testing.T) {
	const ranges = 5
	image := pageAligned(ranges*RangeLength-4096, 1)
	var list growing
	w := NewWriter("vda.qcow2", &list)
	for _, i := range []int{3, 0, 4, 1, 2} {
		part := image[i*RangeLength : min((i+1)*RangeLength, len(image))]
		if err := w.Add(part, int64(i*RangeLength)); err != nil {
			t.Fatal(err)
		}
	}
	digest, err := w.Finish()
	if err != nil || int64(len(list.content)) != FileSize(int64(len(image))) {
		t.Fatalf("a list of %d bytes, %v", len(list.content), err)
	}
	of := List{Length: int64(len(image)), Range: RangeLength, Digest: digest}
	for _, damaged := range []int{-1, 2, ranges - 1} {
		stored := bytes.Clone(image)
		if damaged >= 0 {
			stored[damaged*RangeLength+100] ^= 1
		}
		found, err := Check(context.Background(), ImageFile{Name: "vda.qcow2", PieceReader: pieces(stored), Size: of.Length},
			ListFile{ReaderAt: &list, Size: int64(len(list.content))}, of, CheckOptions{})
		if err != nil || (damaged < 0) != (len(found) == 0) {
			t.Fatalf("range %d is damaged: found %v, %v", damaged, found, err)
		}
		if damaged >= 0 && (len(found) != 1 || found[0].InList || found[0].Range != of.layout().at(int64(damaged))) {
			t.Errorf("range %d is damaged: found %v", damaged, found)
		}
		shared := NewReaders(context.Background(), ReadOptions{})
		defer shared.Close()
		r := shared.Open(File{"vda.qcow2", bytes.NewReader(stored)}, File{"vda.hashes", &list}, of)
		for i := range ranges {
			place := of.layout().at(int64(i))
			p := directio.Buffer(RangeLength)[:place.Length]
			n, err := r.ReadAt(p, place.Offset)
			var differs *DamageError
			switch {
			case i != damaged && (err != nil || !bytes.Equal(p, image[place.Offset:place.Offset+place.Length])):
				t.Errorf("range %d is sound, and was read as something else: %v", i, err)
			case i == damaged && (n != 0 || !errors.As(err, &differs) || differs.Range != place || !strings.Contains(err.Error(), "differs from what was written")):
				t.Errorf("range %d is damaged: read %d bytes, %v", i, n, err)
			}
			if r.Proven().Has(int64(i)) != (i != damaged) {
				t.Errorf("range %d, of which %d is damaged, counts as proven: %v", i, damaged, r.Proven().Has(int64(i)))
			}
		}
	}
}
