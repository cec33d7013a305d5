package hashlist

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/localfile"
)

// longImage makes an image whose hash list has several pieces: sparse, with marks.
func longImage(t testing.TB, unit int64) (image testImage, content func(at, n int64) []byte) {
	t.Helper()
	return imageOf(t, pieceOfList/hashSize*unit+unit/2, unit)
}

// imageOf makes a sparse image of that length, with marks.
func imageOf(t testing.TB, length, unit int64) (image testImage, content func(at, n int64) []byte) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "vda.qcow2")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	marks := map[int64]byte{0: 1, unit + 77: 2, length/2 + 5: 3, length - 1: 4}
	content = func(at, n int64) []byte {
		p := make([]byte, min(n, length-at))
		for i, b := range marks {
			if i >= at && i < at+int64(len(p)) {
				p[i-at] = b
			}
		}
		return p
	}
	for at, b := range marks {
		if _, err := f.WriteAt([]byte{b}, at); err != nil {
			t.Fatal(err)
		}
	}
	l := layout{length, unit}
	list := l.header()
	var tree listTree
	for at := int64(0); at < length; at += computePiece {
		list = appendHashes(list, content(at, computePiece), unit)
	}
	digest := digest.Of(list)
	if l.treeSize() > 0 {
		for at := int64(0); at < l.hashesSize(); at += pieceOfList {
			tree.add(list[at:min(at+pieceOfList, l.hashesSize())])
		}
		list = append(list, tree.encode()...)
	}
	image = testImage{name, filepath.Join(filepath.Dir(name), "vda.hashes"), List{Length: length, Range: unit, Digest: digest}}
	if err := os.WriteFile(image.hashes, list, 0o600); err != nil {
		t.Fatal(err)
	}
	return image, content
}

// testImage is an image and its hash list in files.
type testImage struct {
	path, hashes string
	list         List
}

// open returns a reader of the image, which opens the files when it reads them.
func (i testImage) open(shared *Readers) *Reader {
	return shared.Open(File{"vm1/check1/vda.qcow2 (disk vda)", path(i.path)}, File{"vm1/check1/vda.hashes (disk vda)", path(i.hashes)}, i.list)
}

// path is a file that is opened and read past the page cache each time.
type path string

func (p path) ReadAt(buf []byte, off int64) (int, error) {
	f, err := localfile.OpenRegular(string(p))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	r, err := directio.NewReader(f)
	if err != nil {
		return 0, err
	}
	return r.ReadAt(buf, off)
}

// readAround reads where the marks of a longImage are.
func readAround(t *testing.T, image testImage, content func(at, n int64) []byte) (warnings string, err error) {
	t.Helper()
	var mu sync.Mutex
	shared := NewReaders(context.Background(), ReadOptions{Warn: func(text string) {
		mu.Lock()
		defer mu.Unlock()
		warnings += text + "\n"
	}})
	defer shared.Close()
	r := image.open(shared)
	for _, at := range []int64{0, image.list.Range, image.list.Length / 2 &^ 4095, image.list.Length - 4096} {
		p := directio.Buffer(4096)
		n, err := r.ReadAt(p, at)
		if err != nil {
			return warnings, err
		}
		if !bytes.Equal(p[:n], content(at, 4096)) {
			t.Errorf("what is at %d is something else", at)
		}
	}
	return warnings, nil
}

// Whatever is wrong with a list: the image is read rightly if it is sound, and
// what proves it is said.
func TestDamagedLists(t *testing.T) {
	for _, unit := range []int64{RangeLength, FirstRangeLength} {
		image, content := longImage(t, unit)
		l := image.list.layout()
		hashes := image.hashes
		whole, err := os.ReadFile(hashes)
		if err != nil {
			t.Fatal(err)
		}
		tests := map[string]struct {
			spoil    func()
			computed bool
		}{
			"sound":        {func() {}, false},
			"header":       {func() { flip(t, hashes, 9) }, true},
			"first hash":   {func() { flip(t, hashes, 32) }, true},
			"last hash":    {func() { flip(t, hashes, l.hashesSize()-1) }, true},
			"missing":      {func() { _ = os.Remove(hashes) }, true},
			"a directory":  {func() { _ = errors.Join(os.Remove(hashes), os.Mkdir(hashes, 0o700)) }, true},
			"truncated":    {func() { _ = os.Truncate(hashes, 40000) }, true},
			"empty":        {func() { _ = os.Truncate(hashes, 0) }, true},
			"appended":     {func() { _ = os.Truncate(hashes, l.fileSize()+100) }, false},
			"tree":         {func() { flip(t, hashes, int64(len(whole)-1)) }, unit == FirstRangeLength},
			"without tree": {func() { _ = os.Truncate(hashes, l.hashesSize()) }, false},
		}
		for name, tt := range tests {
			if unit == FirstRangeLength && !strings.Contains("sound, first hash, missing", name) {
				continue // the image has 2 GiB
			}
			t.Run(fmt.Sprintf("%s, %d", name, unit), func(t *testing.T) {
				tt.spoil()
				defer func() { _ = errors.Join(os.RemoveAll(hashes), os.WriteFile(hashes, whole, 0o600)) }()
				warnings, err := readAround(t, image, content)
				if err != nil || tt.computed != strings.Contains(warnings, "vm1/check1/vda.hashes (disk vda): is damaged") || !tt.computed && warnings != "" {
					t.Errorf("got %v, warnings %q", err, warnings)
				}
			})
		}
		t.Run(fmt.Sprintf("image too, %d", unit), func(t *testing.T) {
			flip(t, hashes, 40)
			flip(t, image.path, l.length/3)
			defer flip(t, hashes, 40)
			defer flip(t, image.path, l.length/3)
			var damaged *DamageError
			if _, err := readAround(t, image, content); !errors.As(err, &damaged) {
				t.Errorf("got %v, want damage", err)
			}
		})
	}
}

// What is read wrong once of a list is read again, whatever it is, and told.
func TestMisreadLists(t *testing.T) {
	for _, unit := range []int64{RangeLength, FirstRangeLength} {
		image, content := longImage(t, unit)
		l := image.list.layout()
		for _, at := range []int64{8, 32, 32 + 2047*32, l.hashesSize() - 1, l.fileSize() - 1} {
			var once sync.Once
			spoil := func(name string, offset int64, p []byte) {
				if i := at - offset; strings.HasSuffix(name, ".hashes") && i >= 0 && i < int64(len(p)) {
					once.Do(func() { p[i] ^= 1 })
				}
			}
			directio.OnRead.Store(&spoil)
			warnings, err := readAround(t, image, content)
			directio.OnRead.Store(nil)
			// The hashes in the first page of the tree are read with it first, and nobody uses that.
			used := l.treeSize() == 0 || at >= l.hashesSize() || at/pageSize < l.hashesSize()/pageSize
			if err != nil || strings.Contains(warnings, "is damaged") || used && !strings.Contains(warnings, "vda.hashes (disk vda): ") {
				t.Errorf("ranges of %d bytes, byte %d of the list: %v, %q", unit, at, err, warnings)
			}
		}
	}
}

// An image that is read wrong once while a list is computed from it is read again, and
// that is told.
func TestMisreadWhileAListIsComputed(t *testing.T) {
	image, content := longImage(t, RangeLength)
	flip(t, image.hashes, 32)
	at := image.list.Length / 3
	var once sync.Once
	spoil := func(name string, offset int64, p []byte) {
		if i := at - offset; name == image.path && i >= 0 && i < int64(len(p)) {
			once.Do(func() { p[i] ^= 1 })
		}
	}
	directio.OnRead.Store(&spoil)
	defer directio.OnRead.Store(nil)
	warnings, err := readAround(t, image, content)
	if want := fmt.Sprintf("vda.qcow2 (disk vda): %d bytes at offset 0: %s", image.list.Length, readTwice); err != nil || !strings.Contains(warnings, want) {
		t.Errorf("got %v, warnings %q, want %q", err, warnings, want)
	}
}

// cachedFile is a file as the page cache has it: what was read wrong stays so until it is forgotten.
type cachedFile struct {
	io.ReaderAt
	bad    int64 // a byte that is wrong in the cache; -1: none
	forgot []Range
}

func (f *cachedFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.ReaderAt.ReadAt(p, off)
	if i := f.bad - off; f.bad >= 0 && i >= 0 && i < int64(n) {
		p[i] ^= 1
	}
	return n, err
}

func (f *cachedFile) Forget(offset, length int64) {
	f.forgot = append(f.forgot, Range{offset, length})
	if offset <= f.bad && f.bad < offset+length {
		f.bad = -1
	}
}

// What is wrong in the page cache alone is read again from the storage, of images, of hashes, and of
// the tree above them; and what is wrong on the storage stays damage.
func TestReadAgainPastTheCache(t *testing.T) {
	for _, unit := range []int64{RangeLength, FirstRangeLength} {
		image, content := longImage(t, unit)
		l := image.list.layout()
		bad := []struct {
			image bool
			at    int64
		}{{true, 5}, {true, l.length - 1}, {false, 8}, {false, 40}, {false, l.fileSize() - 1}}
		for _, b := range bad {
			file, list := &cachedFile{ReaderAt: path(image.path), bad: -1}, &cachedFile{ReaderAt: path(image.hashes), bad: -1}
			spoilt := list
			if b.image {
				spoilt = file
			}
			spoilt.bad = b.at
			warnings := ""
			shared := NewReaders(context.Background(), ReadOptions{Cached: true, Warn: func(text string) { warnings += text }})
			r := shared.Open(File{"vda.qcow2", file}, File{"vda.hashes", list}, image.list)
			for _, at := range []int64{0, (l.length - 1) &^ 4095} {
				p := directio.Buffer(4096)
				if n, err := r.ReadAt(p, at); err != nil && err != io.EOF || !bytes.Equal(p[:n], content(at, 4096)) {
					t.Errorf("unit %d, %+v: at %d: %v", unit, b, at, err)
				}
			}
			shared.Close()
			if spoilt.bad >= 0 || !strings.Contains(warnings, readTwice) || strings.Contains(warnings, "is damaged") {
				t.Errorf("unit %d, %+v: forgotten: %v, warnings %q", unit, b, spoilt.forgot, warnings)
			}
		}
		flip(t, image.path, 5)
		shared := NewReaders(context.Background(), ReadOptions{Cached: true})
		r := shared.Open(File{"vda.qcow2", &cachedFile{ReaderAt: path(image.path), bad: -1}}, File{"vda.hashes", path(image.hashes)}, image.list)
		var damage *DamageError
		if _, err := r.ReadAt(directio.Buffer(4096), 0); !errors.As(err, &damage) || damage.Offset != 0 {
			t.Errorf("unit %d: a byte that is wrong on disk: %v", unit, err)
		}
		shared.Close()
	}
}

func BenchmarkReader(b *testing.B) {
	for _, unit := range []int64{RangeLength, FirstRangeLength} {
		b.Run(fmt.Sprintf("4 KiB of ranges of %d", unit), func(b *testing.B) {
			image, _ := longImage(b, unit)
			shared := NewReaders(context.Background(), ReadOptions{Warn: func(text string) { b.Error(text) }})
			defer shared.Close()
			r := image.open(shared)
			p := directio.Buffer(4096)
			seed := uint64(1)
			b.SetBytes(4096)
			for b.Loop() {
				seed = seed*6364136223846793005 + 1442695040888963407
				at := int64(seed>>20) % (image.list.Length - 4096) &^ 4095
				if _, err := r.ReadAt(p, at); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Whatever stands in the place of a hash list: what is read of a sound image is what
// was written.
func FuzzHashList(f *testing.F) {
	image, content := longImage(f, RangeLength)
	hashes := image.hashes
	whole, err := os.ReadFile(hashes)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{}, 0)
	f.Add(whole[:100], 0)
	f.Add([]byte{1}, 9)
	f.Add([]byte("0123456789"), len(whole)-20)
	f.Fuzz(func(t *testing.T, patch []byte, at int) {
		list := bytes.Clone(whole)
		if at < 0 || at > len(list) {
			list = patch
		} else {
			list = append(list[:at], append(patch, list[min(at+len(patch), len(list)):]...)...)
		}
		if err := os.WriteFile(hashes, list, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readAround(t, image, content); err != nil {
			t.Errorf("the image is sound, and is not read: %v", err)
		}
	})
}

// An image that is wrong in the page cache alone is read again from the storage while a list is
// computed from it, too.
func TestComputeAgainPastTheCache(t *testing.T) {
	image, content := longImage(t, RangeLength)
	flip(t, image.hashes, 32)
	file := &cachedFile{ReaderAt: path(image.path), bad: image.list.Length / 3}
	shared := NewReaders(context.Background(), ReadOptions{Cached: true})
	defer shared.Close()
	r := shared.Open(File{"vda.qcow2", file}, File{"vda.hashes", path(image.hashes)}, image.list)
	p := directio.Buffer(4096)
	if _, err := r.ReadAt(p, 0); err != nil || !bytes.Equal(p, content(0, 4096)) {
		t.Errorf("got %v", err)
	}
}
