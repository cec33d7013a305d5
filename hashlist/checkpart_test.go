package hashlist

import (
	"bytes"
	"context"
	"io"
	"slices"
	"sync"
	"testing"

	"github.com/virtbackup/virtbackup/internal/digest"
)

// partFile reads from memory, and notes which ranges.
type partFile struct {
	data []byte
	mu   sync.Mutex
	read []int64
}

func (p *partFile) ReadPiece(b []byte, offset int64) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := copy(b, p.data[min(offset, int64(len(p.data))):])
	for at := offset; at < offset+int64(n); at += RangeLength {
		p.read = append(p.read, at/RangeLength)
	}
	return n, nil
}

func (p *partFile) Forget(int64, int64) {}

// CheckPart reads the ranges that it is asked for, and no others, and says of these what Check
// says; a list that is not the one that was written proves nothing.
func TestCheckPart(t *testing.T) {
	const ranges = 100
	sound := pageAligned(ranges*RangeLength-5000, 1)
	l := layout{int64(len(sound)), RangeLength}
	goodList := appendHashes(l.header(), sound, RangeLength)
	of := List{Length: int64(len(sound)), Range: RangeLength, Digest: digest.Of(goodList)}
	flipped := func(p []byte, at int) []byte {
		p = slices.Clone(p)
		p[at] ^= 1
		return p
	}
	part := []int64{0, 31, 32, 33, 63, 65, 99}
	for name, tt := range map[string]struct {
		image, list []byte
		found       []Range
		inList      bool
		listed      bool
	}{
		"sound":                     {sound, goodList, nil, false, true},
		"a range that is read":      {flipped(sound, 32*RangeLength+7), goodList, []Range{{32 * RangeLength, RangeLength}}, false, true},
		"neighbours":                {flipped(flipped(sound, 32*RangeLength), 33*RangeLength), goodList, []Range{{32 * RangeLength, 2 * RangeLength}}, false, true},
		"the last range":            {flipped(sound, len(sound)-1), goodList, []Range{{99 * RangeLength, RangeLength - 5000}}, false, true},
		"a range that is not":       {flipped(sound, 64*RangeLength), goodList, nil, false, true},
		"truncated":                 {sound[:98*RangeLength], goodList, []Range{{98 * RangeLength, 2*RangeLength - 5000}}, false, true},
		"appended":                  {append(slices.Clone(sound), 1), goodList, []Range{{int64(len(sound)), 1}}, false, true},
		"the list":                  {sound, flipped(goodList, 32+64*32), []Range{{0, 32 * 101}}, true, false},
		"the list's header":         {sound, flipped(goodList, 20), []Range{{0, 32}}, true, true},
		"the list, and the image":   {flipped(sound, 0), flipped(goodList, 32), []Range{{0, 32 * 101}}, true, false},
		"a list that is cut short":  {sound, goodList[:32*50], []Range{{32 * 50, 32 * 51}}, true, false},
		"a list that was not there": {sound, nil, []Range{{}}, true, false},
	} {
		image := &partFile{data: tt.image}
		list := ListFile{Missing: "missing"}
		if tt.list != nil {
			list = ListFile{ReaderAt: bytes.NewReader(tt.list), Size: int64(len(tt.list))}
		}
		read := int64(0)
		var mu sync.Mutex
		found, listed, err := CheckPart(context.Background(), ImageFile{"vda.qcow2", image, int64(len(tt.image))}, list, of,
			func(i int64) bool { return slices.Contains(part, i) }, CheckOptions{Progress: func(n int64) { mu.Lock(); read += n; mu.Unlock() }})
		if err != nil || listed != tt.listed || len(found) != len(tt.found) {
			t.Errorf("%s: found %+v, listed %v, %v", name, found, listed, err)
			continue
		}
		for i, f := range found {
			if f.Range != tt.found[i] || f.InList != tt.inList || f.Unused != (name == "appended") {
				t.Errorf("%s: found %+v, want %v", name, f, tt.found[i])
			}
		}
		for _, i := range image.read {
			if !slices.Contains(part, i) {
				t.Errorf("%s: range %d was read", name, i)
			}
		}
		if name == "sound" && read != 6*RangeLength+RangeLength-5000 {
			t.Errorf("progress says %d bytes", read)
		}
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(io.ErrClosedPipe)
	image := ImageFile{"vda.qcow2", &partFile{data: sound}, int64(len(sound))}
	if _, _, err := CheckPart(ctx, image, ListFile{ReaderAt: bytes.NewReader(goodList), Size: int64(len(goodList))}, of, func(int64) bool { return true }, CheckOptions{}); err != io.ErrClosedPipe {
		t.Errorf("got %v", err)
	}
}
