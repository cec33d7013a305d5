package verify

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/internal/bitset"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/repository"
)

// withoutQemuImg lets runs go without starting processes, which take most of their time.
func withoutQemuImg(t *testing.T) { t.Setenv("PATH", t.TempDir()) }

// readRanges collects the ranges of the images that are read, by the paths of the images.
func readRanges(t *testing.T) func() map[string]*bitset.Set {
	var mu sync.Mutex
	read := map[string]*bitset.Set{}
	note := func(path string, offset int64, p []byte) {
		mu.Lock()
		defer mu.Unlock()
		if read[path] == nil {
			read[path] = &bitset.Set{}
		}
		for at := offset; at < offset+int64(len(p)); at += cluster {
			read[path].Add(at / cluster)
		}
	}
	directio.OnRead.Store(&note)
	t.Cleanup(func() { directio.OnRead.Store(nil) })
	return func() map[string]*bitset.Set {
		mu.Lock()
		defer mu.Unlock()
		was := read
		read = map[string]*bitset.Set{}
		return was
	}
}

// tablesOf are the ranges of an image that are not the data of the disk.
func tablesOf(t *testing.T, path string) (tables *bitset.Set, ranges int64) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	h, err := qcow2.ReadHeader(strings.NewReader(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	ofData := map[int64]bool{}
	for i := range h.Tables() {
		table := qcow2.TableOffset(binary.BigEndian.Uint64(data[h.L1Offset+8*i:]))
		for at := table; table != 0 && at < table+cluster; at += 8 {
			if host := int64(binary.BigEndian.Uint64(data[at:]) & 0x00fffffffffffe00); host != 0 {
				ofData[host/cluster] = true
			}
		}
	}
	tables, ranges = &bitset.Set{}, (int64(len(data))+cluster-1)/cluster
	for i := range ranges {
		if !ofData[i] {
			tables.Add(i)
		}
	}
	return tables, ranges
}

// Ten runs over points that do not change read every byte, each a tenth and the tables, and
// only then are the points verified, since the first.
func TestSamplesProveEveryByte(t *testing.T) {
	withoutQemuImg(t)
	for sample, runs := range map[int]int{1: 100, 10: 10, 33: 4, 100: 1} {
		r := site(t)
		taken := readRanges(t)
		var first time.Time
		all := map[string]*bitset.Set{}
		for i := 1; i <= runs; i++ {
			report := verified(t, r, Request{Domain: "vm1", Point: "check2", Sample: sample})
			if i == 1 {
				first = report.Time
			}
			for path, read := range taken() {
				tables, ranges := tablesOf(t, path)
				if most := ranges*int64(sample)/100 + 1 + tables.Len(); read.Len() > most {
					t.Errorf("sample %d: %s: %d of %d ranges read, want %d at most", sample, path, read.Len(), ranges, most)
				}
				if all[path] == nil {
					all[path] = &bitset.Set{}
				}
				for at := read.Next(0); at >= 0; at = read.Next(at + 1) {
					all[path].Add(at)
				}
			}
			p := report.Domains[0].Points[1]
			v, known := r.Verified("vm1")["check2"]
			switch done := i == runs; {
			case known != done || done && !v.Sound || p.Restores != done || report.Err() != nil || done != (p.ProvenPercent == 0):
				t.Errorf("sample %d, run %d: known %+v, report %+v, %v", sample, i, v, p, report.Damage)
			case !done && p.ProvenPercent != i*sample:
				t.Errorf("sample %d, run %d: %d%% proven", sample, i, p.ProvenPercent)
			case done && (v.Time.After(report.Time) || v.Time.Before(first.Add(-time.Minute)) || runs > 1 && !v.Time.Before(report.Time) || !p.Verified.Equal(v.Time)):
				t.Errorf("sample %d: verified %v, the first run was at %v, the last at %v", sample, v.Time, first, report.Time)
			}
		}
		for path, read := range all {
			if _, ranges := tablesOf(t, path); read.Len() != ranges {
				t.Errorf("sample %d: %s: %d of %d ranges read in all", sample, path, read.Len(), ranges)
			}
		}
		if len(all) != 4 {
			t.Errorf("%d images read, want those of two points", len(all))
		}
	}
}

// A flipped byte anywhere in a file of a point is found within ten runs, as a run that reads
// everything finds it; when it is repaired, the point counts as damaged until all was read again.
func TestSamplesFindEveryByte(t *testing.T) {
	withoutQemuImg(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	r := site(t)
	files, err := filepath.Glob(filepath.Join(r.PointDir("vm1", "check2"), "*"))
	if err != nil || len(files) != 7 {
		t.Fatalf("%v, %v", files, err)
	}
	request := Request{Domain: "vm1", Point: "check2", Sample: 10}
	for _, path := range slices.Repeat(files, 2) {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		at := rnd.Int64N(info.Size())
		if err := flip(path, at); err != nil {
			t.Fatal(err)
		}
		place, err := foundWithin(r, request, 10)
		if err != nil || place != filepath.Join("vm1", "check2", filepath.Base(path)) {
			t.Errorf("seed %d: byte %d of %s flipped: found %q, %v", seed, at, path, place, err)
		}
		whole := verified(t, copyOf(t, r), Request{Domain: "vm1", Point: "check2"})
		if len(whole.Damage) != 1 {
			t.Errorf("seed %d: byte %d of %s: all of it: %v", seed, at, path, whole.Damage)
		}
		harmless := strings.HasSuffix(path, ".hashes") || strings.HasSuffix(path, "checkpoint.xml")
		noted := r.Verified("vm1")["check2"]
		isManifest := filepath.Base(path) == manifest.FileName
		if !isManifest && (noted.Manifest != "" && !noted.Sound) == harmless {
			t.Errorf("seed %d: %s: noted %+v", seed, path, noted)
		}
		if err := flip(path, at); err != nil {
			t.Fatal(err)
		}
		if noted := r.Verified("vm1")["check2"]; noted.Sound && !harmless && !isManifest {
			t.Errorf("seed %d: %s repaired and not read: noted %+v", seed, path, noted)
		}
		all := Request{Domain: "vm1", Point: "check2", Sample: 100}
		if place, err := foundWithin(r, all, 1); err != nil || place != "" {
			t.Errorf("seed %d: %s repaired: found %s, %v", seed, path, place, err)
		}
		if noted := r.Verified("vm1")["check2"]; !noted.Sound {
			t.Errorf("seed %d: %s repaired and read: noted %+v", seed, path, noted)
		}
	}
}

// foundWithin runs until damage is found.
func foundWithin(r *repository.Repository, request Request, runs int) (place string, err error) {
	for range runs {
		report, err := Run(context.Background(), r, request)
		if err != nil || len(report.Damage) > 0 {
			if err == nil {
				place = report.Damage[0].File
			}
			return place, err
		}
	}
	return "", nil
}

// A sample that finds damage says the same as a run that reads everything.
func TestSampleReportsAsEverything(t *testing.T) {
	r := site(t)
	if err := errors.Join(flip(filepath.Join(r.PointDir("vm1", "check1"), "vda.qcow2"), 2*mib), flip(filepath.Join(r.PointDir("vm1", "copy5"), "vda.hashes"), 50)); err != nil {
		t.Fatal(err)
	}
	want := verified(t, copyOf(t, r), Request{})
	got := verified(t, r, Request{Sample: 100})
	if len(want.Damage) != 2 || len(got.Damage) != 2 {
		t.Fatalf("got %v, want %v", got.Damage, want.Damage)
	}
	for i, d := range got.Damage {
		if d.String() != want.Damage[i].String() || !slices.Equal(d.Breaks, want.Damage[i].Breaks) || !slices.Equal(d.Guest, want.Damage[i].Guest) {
			t.Errorf("got  %+v\nwant %+v", d, want.Damage[i])
		}
	}
	if doubts := r.Doubts("vm1"); len(doubts) != 4 || len(got.Domains[0].Lost) != 4 || got.Domains[0].Newest != "copy5" {
		t.Errorf("doubts %v, report %+v", doubts, got.Domains[0])
	}
}

// dataOf is the offset of some data of an image.
func dataOf(t *testing.T, path string) int64 {
	tables, ranges := tablesOf(t, path)
	for i := range ranges {
		if !tables.Has(i) {
			return i*cluster + 5
		}
	}
	t.Fatal("no data")
	return 0
}

// Parts follow each other and are all of an image, whatever its length.
func TestPartsAreTheImage(t *testing.T) {
	for _, n := range []int64{0, 1, 7, 99, 100, 101, 12345, 1 << 46} {
		next := int64(0)
		for part := range repository.Parts {
			first, end := partOf(part, n)
			if first != next || end < first || end-first > n/repository.Parts+1 {
				t.Errorf("%d ranges, part %d: %d to %d", n, part, first, end)
			}
			next = end
		}
		if next != n {
			t.Errorf("%d ranges: the parts end at %d", n, next)
		}
	}
}
