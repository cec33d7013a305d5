package hashlist

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/internal/directio"
)

// Readers side by side, of more ranges than the cache holds, get what the file
// has, and the end of the file where it is.
func TestReadersSideBySide(t *testing.T) {
	const ranges = 64
	const unit = FirstRangeLength // so that there are more than the cache holds
	content := make([]byte, ranges*unit-4096)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(content)
	list := appendHashes(layout{int64(len(content)), unit}.header(), content, unit)
	shared := NewReaders(context.Background(), ReadOptions{Warn: func(place string) { t.Error(place) }})
	defer shared.Close()
	image, stored := File{"vda.qcow2", bytes.NewReader(content)}, File{"vda.hashes", bytes.NewReader(list)}
	reader := shared.Open(image, stored, List{Length: int64(len(content)), Range: unit, Digest: digest.Of(list)})
	seed := rand.Uint64()
	var all sync.WaitGroup
	for n := range uint64(8) {
		rnd := rand.New(rand.NewPCG(seed, n))
		all.Go(func() {
			buf := directio.Buffer(2 * unit)
			for range 100 {
				at, length := rnd.IntN(len(content)+unit), 1+rnd.IntN(len(buf))
				if rnd.IntN(3) == 0 {
					at &^= unit - 1
				}
				got, err := reader.ReadAt(buf[:length], int64(at))
				want := content[min(at, len(content)):min(at+length, len(content))]
				if !bytes.Equal(buf[:got], want) || (got < length) != (err == io.EOF) {
					t.Errorf("seed %d: %d bytes at %d: got %d, %v", seed, length, at, got, err)
					return
				}
			}
		})
	}
	all.Wait()
	if n := shared.cache.bytes; n > maxCached {
		t.Errorf("%d bytes are kept", n)
	}
	proven := 0
	for i := range int64(ranges) {
		if reader.proven.Has(i) {
			proven++
		}
	}
	if proven < ranges/2 {
		t.Errorf("%d of %d ranges are proven", proven, ranges)
	}
}
