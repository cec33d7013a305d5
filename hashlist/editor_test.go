package hashlist

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// sumsList writes a list of such hashes from scratch, the way a Writer leaves it.
func sumsList(t *testing.T, sums []Sum, length int64) (list []byte, of List) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "list"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l := layout{length, RangeLength}
	p := l.header()
	for _, sum := range sums {
		p = append(p, sum[:]...)
	}
	if _, err := f.Write(p); err != nil {
		t.Fatal(err)
	}
	digest, err := finishHashes(f, l)
	if err != nil {
		t.Fatal(err)
	}
	if list, err = os.ReadFile(f.Name()); err != nil {
		t.Fatal(err)
	}
	return list, List{Length: length, Range: RangeLength, Digest: digest}
}

// countedFile counts the bytes of the pieces that are read and written.
type countedFile struct {
	*os.File
	read, written int64
}

func (f *countedFile) ReadAt(p []byte, off int64) (int, error) {
	f.read += int64(len(p))
	return f.File.ReadAt(p, off)
}

func (f *countedFile) WriteAt(p []byte, off int64) (int, error) {
	f.written += int64(len(p))
	return f.File.WriteAt(p, off)
}

func listFile(t *testing.T, list []byte) *countedFile {
	t.Helper()
	path := filepath.Join(t.TempDir(), "clone")
	if err := os.WriteFile(path, list, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &countedFile{File: f}
}

func randomSum(r *rand.Rand) (sum Sum) {
	for i := range sum {
		sum[i] = byte(r.Uint32())
	}
	return sum
}

func randomSums(r *rand.Rand, n int64) []Sum {
	sums := make([]Sum, n)
	for i := range sums {
		sums[i] = randomSum(r)
	}
	return sums
}

// An edited list is byte for byte the one that is written from scratch, whatever changes, and
// however long both are: around the borders of pieces above all.
func TestEditedListIsThatWrittenFromScratch(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	const piece = pieceOfList / hashSize
	lengths := []int64{1, 2, piece - 2, piece - 1, piece, 2*piece - 1, 2 * piece, 3*piece + 17, 5 * piece}
	for range 150 {
		from, to := lengths[r.IntN(len(lengths))], lengths[r.IntN(len(lengths))]
		sums := randomSums(r, from)
		old, of := sumsList(t, sums, from*RangeLength-int64(r.IntN(2))*512)
		f := listFile(t, old)
		e, err := OpenEditor(context.Background(), f, of)
		if err != nil {
			t.Fatal(err)
		}
		for int64(len(sums)) < to {
			sums = append(sums, Sum{})
		}
		touched := int64(0)
		set := func(i int64) {
			sums[i] = randomSum(r)
			if err := e.Set(i, sums[i]); err != nil {
				t.Fatal(err)
			}
			touched++
			if r.IntN(20) == 0 { // as if very many were pending
				if err := e.flushPending(); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := e.Sum(i); err != nil || got != sums[i] {
				t.Fatalf("hash of range %d: not the one that was set: %v", i, err)
			}
		}
		for range r.IntN(5) {
			set(r.Int64N(from))
		}
		for _, i := range r.Perm(int(max(0, to-from))) {
			set(from + int64(i))
		}
		length := to*RangeLength - int64(r.IntN(2))*512
		want, wantOf := sumsList(t, sums[:to], length)
		digest, err := e.Finish(length)
		if err != nil {
			t.Fatalf("%d to %d ranges: %v", from, to, err)
		}
		got, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		if digest != wantOf.Digest || !bytes.Equal(got, want) {
			t.Fatalf("%d to %d ranges, %d set: the list differs from one written from scratch (digest too: %v)", from, to, touched, digest != wantOf.Digest)
		}
	}
}

// What is read and written is set by the changes, not by the length of the list.
func TestEditorTouchesChangedPiecesOnly(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	n := int64(100 * pieceOfList / hashSize)
	list, of := sumsList(t, randomSums(r, n), n*RangeLength)
	f := listFile(t, list)
	e, err := OpenEditor(context.Background(), f, of)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range []int64{n / 2, n/2 + 1, n / 3} {
		if err := e.Set(i, Sum{1}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := e.Finish(n * RangeLength); err != nil {
		t.Fatal(err)
	}
	tree := of.layout().treeSize()
	if most := tree + 3*pieceOfList; f.read > most { // of two of them and the header's
		t.Errorf("%d bytes were read, want at most %d", f.read, most)
	}
	if most := tree + 2*editBlock; f.written > most || e.Written() != f.written {
		t.Errorf("%d bytes were written, %d counted; want at most %d", f.written, e.Written(), most)
	}
}

// A piece that is not what was written is not taken over into the new list.
func TestEditorOfADamagedList(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	n := int64(3 * pieceOfList / hashSize)
	for name, at := range map[string]int64{"in a changed piece": pieceOfList + 100, "in the only piece": 77} {
		n := n
		if at < pieceOfList {
			n = 5
		}
		list, of := sumsList(t, randomSums(r, n), n*RangeLength)
		f := listFile(t, list)
		flip(t, f.Name(), at)
		e, err := OpenEditor(context.Background(), f, of)
		if err == nil {
			err = e.Set(n/2, Sum{1})
		}
		if err == nil {
			_, err = e.Finish(n * RangeLength)
		}
		if !errors.Is(err, ErrListUnusable) {
			t.Errorf("%s: got %v, want ErrListUnusable", name, err)
		}
	}
}

func TestEditorMissesARange(t *testing.T) {
	list, of := sumsList(t, randomSums(rand.New(rand.NewPCG(1, 2)), 3), 3*RangeLength)
	e, err := OpenEditor(context.Background(), listFile(t, list), of)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Set(4, Sum{1}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Finish(5 * RangeLength); err == nil {
		t.Error("a list without the hash of range 3 was finished")
	}
}
