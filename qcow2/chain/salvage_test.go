package chain

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/virtbackup/virtbackup/qcow2"
)

var errBroken = errors.New("broken")

// broken is an image of which one unit cannot be read.
type broken struct {
	io.ReaderAt
	at, unit int64
}

func (b broken) ReadAt(p []byte, off int64) (int, error) {
	if off < b.at+b.unit && b.at < off+int64(len(p)) {
		return 0, errBroken
	}
	return b.ReaderAt.ReadAt(p, off)
}

// salvaged reads a whole chain, and returns what it shows and which bytes are lost.
func salvaged(t *testing.T, images []Image) (shown []byte, lost []qcow2.Range) {
	t.Helper()
	var mu sync.Mutex
	c, err := OpenSalvaging(images, Salvage{
		Lost: func(err error) bool { return errors.Is(err, errBroken) },
		Report: func(offset, length int64, why error) {
			mu.Lock()
			defer mu.Unlock()
			if !errors.Is(why, errBroken) {
				t.Errorf("lost because of %v", why)
			}
			lost = append(lost, qcow2.Range{Offset: offset, Length: length})
		}})
	if err != nil {
		t.Fatal(err)
	}
	var offsets []int64
	for at := int64(0); at < c.Size(); at += c.ClusterSize() {
		offsets = append(offsets, at)
	}
	shown = make([]byte, int64(len(offsets))*c.ClusterSize())
	if err := c.NewReader().Read(shown, offsets); err != nil {
		t.Fatal(err)
	}
	for _, r := range lost {
		if r.Length <= 0 || r.Offset < 0 || r.End() > c.Size() {
			t.Fatalf("lost: %+v of a disk of %d bytes", r, c.Size())
		}
	}
	return shown[:c.Size()], lost
}

// Wherever an image cannot be read, what the chain shows is right, or said to be lost and zero.
func TestSalvage(t *testing.T) {
	const cluster, window = 4096, 4096 / 8 * 4096
	rnd := rand.New(rand.NewPCG(1, 2))
	sizes := []int64{3*window + 5*cluster, 2*window + 512, 4*window + 3*512}
	files, want := chainOf(t, rnd, cluster, sizes...)
	whole, lostBytes, partly := 0, int64(0), 0
	for i, f := range files {
		size, err := f.(io.Seeker).Seek(0, io.SeekEnd)
		if err != nil {
			t.Fatal(err)
		}
		for at := int64(0); at < size; at += cluster * int64(1+rnd.IntN(7)) {
			var images []Image
			for k, f := range files {
				images = append(images, Image{ReaderAt: f, VirtualSize: sizes[k]})
			}
			images[i].ReaderAt = broken{f, at, cluster}
			got, lost := salvaged(t, images)
			right := bytes.Clone(want)
			sum := int64(0)
			for _, r := range lost {
				clear(right[r.Offset:r.End()])
				sum += r.Length
			}
			if !bytes.Equal(got, right) {
				t.Fatalf("image %d, broken at %d: wrong bytes", i, at)
			}
			lostBytes += sum
			switch {
			case sum == 0:
				whole++ // refcounts, or what images above hide
			case sum <= window:
				partly++
			}
		}
	}
	if whole == 0 || partly == 0 || lostBytes == 0 {
		t.Errorf("%d times nothing was lost, %d times a part, %d bytes: not all cases were met", whole, partly, lostBytes)
	}
}

// What an image below says is not shown where an image is missing, and nothing is lost that the
// images above have.
func TestSalvageWithoutAnImage(t *testing.T) {
	dir := t.TempDir()
	const cluster = 4096
	texts := []string{"dddddd", "d..z.d", "..dz.."}
	var images []Image
	for i, text := range texts {
		images = append(images, Image{ReaderAt: stateImage(t, dir, i, text), VirtualSize: int64(len(text)) * cluster})
	}
	for missing, want := range []string{".x..x.", "xx..xx", "xxxxxx"} { // x is lost; what the others have is not
		for _, size := range []int64{6 * cluster, -1} {
			if missing == 2 && size < 0 {
				continue // that of the top image is known
			}
			all := slices.Clone(images)
			all[missing] = Image{Missing: errBroken, VirtualSize: size}
			_, lost := salvaged(t, all)
			got := bytes.Repeat([]byte("."), 6)
			for _, r := range lost {
				for at := r.Offset; at < r.End(); at += cluster {
					got[at/cluster] = 'x'
				}
			}
			if string(got) != want {
				t.Errorf("without image %d: lost %s, want %s", missing, got, want)
			}
		}
	}
	if _, err := OpenSalvaging([]Image{{Missing: errBroken, VirtualSize: 8 * cluster}}, Salvage{Lost: func(error) bool { return true }, Report: func(int64, int64, error) {}}); err != nil {
		t.Errorf("nothing but a lost image: %v", err)
	}
	if _, err := OpenSalvaging([]Image{{Missing: errBroken}}, Salvage{Lost: func(error) bool { return false }}); !errors.Is(err, errBroken) {
		t.Errorf("got %v, want the error that says nothing of the image", err)
	}
}

// Wherever images of a chain are missing or cannot be read, and whatever their sizes, what the
// chain shows is right, or said to be lost and zero.
func TestSalvageOfRandomChains(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 9))
	const cluster = 4096
	for range 8 {
		var sizes []int64
		for range 2 + rnd.IntN(4) {
			sizes = append(sizes, int64(1+rnd.IntN(3*4096))*512)
		}
		files, want := chainOf(t, rnd, cluster, sizes...)
		for range 8 {
			got, lost := salvaged(t, anyDamage(t, rnd, cluster, files, sizes))
			right := bytes.Clone(want)
			for _, r := range lost {
				clear(right[r.Offset:r.End()])
			}
			if !bytes.Equal(got, right) {
				t.Fatalf("sizes %v: wrong bytes", sizes)
			}
		}
	}
}

// anyDamage damages some images of a chain.
func anyDamage(t *testing.T, rnd *rand.Rand, cluster int64, files []io.ReaderAt, sizes []int64) (images []Image) {
	t.Helper()
	known := 0 // from this one on
	if rnd.IntN(3) == 0 {
		known = 1 + rnd.IntN(len(files)-1)
		images = append(images, Image{Missing: errBroken, VirtualSize: -1})
	}
	for k := known; k < len(files); k++ {
		image := Image{ReaderAt: files[k], VirtualSize: sizes[k]}
		switch rnd.IntN(4) {
		case 0:
			image.Missing = errBroken
		case 1:
			size, err := files[k].(io.Seeker).Seek(0, io.SeekEnd)
			if err != nil {
				t.Fatal(err)
			}
			image.ReaderAt = broken{files[k], rnd.Int64N(size/cluster+1) * cluster, cluster * int64(1+rnd.IntN(4))}
		}
		images = append(images, image)
	}
	return images
}
