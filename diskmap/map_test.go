package diskmap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtbackup/virtbackup/extent"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/qcow2/chain"
)

const cluster = 4096

// model is what a disk is, for each of its clusters.
type model struct {
	size int64
	data []bool
	mine []bool // the top image says it
}

// randomChain makes images of several L2 tables, and the model of what they show.
func randomChain(t *testing.T, rnd *rand.Rand, sizes ...int64) (*chain.Chain, model) {
	t.Helper()
	dir := t.TempDir()
	var images []io.ReaderAt
	m := model{}
	for i, size := range sizes {
		f, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		o := qcow2.Options{VirtualSize: size, ClusterSize: cluster}
		if i > 0 {
			o.BackingFile, o.BackingFormat = fmt.Sprint(i-1), "qcow2"
		}
		w, err := qcow2.NewWriter(f, o)
		if err != nil {
			t.Fatal(err)
		}
		n := (size + cluster - 1) / cluster
		below := m.data
		m = model{size, make([]bool, n), make([]bool, n)}
		copy(m.data, below)
		for k := int64(0); k < n; {
			run := min(n-k, 1+rnd.Int64N(1<<rnd.IntN(10)))
			what := rnd.IntN(3)
			for j := k; j < k+run && what > 0; j++ {
				// Without a backing file zeros are not stored.
				m.data[j], m.mine[j] = what == 1, what == 1 || i > 0
				if what == 1 {
					err = errors.Join(err, w.Write([]int64{j * cluster}, make([]byte, cluster)))
				}
			}
			if what == 2 {
				err = errors.Join(err, w.Zero(k*cluster, min(run*cluster, size-k*cluster)))
			}
			k += run
		}
		if _, finished := w.Finish(nil); err != nil || finished != nil {
			t.Fatal(err, finished)
		}
		images = append(images, f)
	}
	c, err := chain.Open(images)
	if err != nil {
		t.Fatal(err)
	}
	return c, m
}

// The extents cover the disk, neighbours differ, and each is what the images were made of; a survey
// has the same, in parts.
func TestModel(t *testing.T) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 1))
	for round := range 20 {
		var sizes []int64
		for range 1 + rnd.IntN(3) {
			sizes = append(sizes, 512*(1+rnd.Int64N(16<<20/512)))
		}
		c, m := randomChain(t, rnd, sizes...)
		end, last := int64(0), Extent{}
		parts := 1 + rnd.IntN(100)
		survey, err := Look(t.Context(), c, parts)
		if err != nil {
			t.Fatal(err)
		}
		want := make([]Sums, len(survey.Buckets))
		all := Sums{}
		err = Each(t.Context(), c, func(e Extent) error {
			if e.Offset != end || e.Length <= 0 || end > 0 && e.Status == last.Status && e.Changed == last.Changed {
				t.Errorf("seed %d, round %d: %+v follows %+v", seed, round, e, last)
			}
			for at := e.Offset; at < e.End(); at += cluster {
				if k := at / cluster; m.data[k] != (e.Status == extent.Data) || m.mine[k] != e.Changed {
					t.Fatalf("seed %d, round %d: %+v is something else at %d: data %v, changed %v", seed, round, e, at, m.data[k], m.mine[k])
				}
				length := min(cluster, m.size-at)
				want[at/survey.Bucket].add(e, length)
				all.add(e, length)
			}
			end, last = e.End(), e
			return nil
		})
		if err != nil || end != m.size {
			t.Errorf("seed %d, round %d: %d of %d bytes, %v", seed, round, end, m.size, err)
		}
		if fmt.Sprint(survey.Buckets) != fmt.Sprint(want) || survey.Sums != all || len(want) > parts || survey.Bucket%cluster != 0 ||
			int64(len(want)) != (m.size+survey.Bucket-1)/survey.Bucket {
			t.Errorf("seed %d, round %d: %d parts of %d bytes are %v, want %v; at most %d", seed, round, len(survey.Buckets), survey.Bucket, survey, want, parts)
		}
	}
}

// A disk without a byte has no extent and no part.
func TestNoByte(t *testing.T) {
	c, _ := randomChain(t, rand.New(rand.NewPCG(1, 1)), 0)
	s, err := Look(t.Context(), c, 64)
	if err != nil || len(s.Buckets) != 0 || s.Sums != (Sums{}) {
		t.Errorf("%+v, %v", s, err)
	}
	if err := Each(t.Context(), c, func(e Extent) error { return fmt.Errorf("an extent: %+v", e) }); err != nil {
		t.Error(err)
	}
}

// A clone of a disk that was never written to is one run, and one part has at least a cluster.
func TestSmallDisk(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := qcow2.NewWriter(f, qcow2.Options{VirtualSize: 3*cluster + 512, ClusterSize: cluster})
	if err == nil {
		_, err = w.Finish(nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	c, err := chain.Open([]io.ReaderAt{f})
	if err != nil {
		t.Fatal(err)
	}
	s, err := Look(t.Context(), c, 64)
	if err != nil || s.Bucket != cluster || len(s.Buckets) != 4 || s.Sums != (Sums{}) {
		t.Errorf("%+v, %v", s, err)
	}
	var got []Extent
	if err := Each(t.Context(), c, func(e Extent) error { got = append(got, e); return nil }); err != nil || len(got) != 1 || got[0].Length != c.Size() || got[0].Status != extent.Zero {
		t.Errorf("%+v, %v", got, err)
	}
}

// Whoever does not want any more extents gets none, and neither does one who has cancelled.
func TestStopped(t *testing.T) {
	c, _ := randomChain(t, rand.New(rand.NewPCG(5, 1)), 9<<20)
	enough, calls := errors.New("enough"), 0
	if err := Each(t.Context(), c, func(Extent) error { calls++; return enough }); err != enough || calls != 1 {
		t.Errorf("%d calls, %v", calls, err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(enough)
	if _, err := Look(ctx, c, 64); err != enough {
		t.Errorf("cancelled: %v", err)
	}
}
