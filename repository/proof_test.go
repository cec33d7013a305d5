package repository

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/manifest"
)

// Who reads all data of a chain has proven all of its image but refcounts: a check
// does not read that again, as what is changed there then shows.
func TestProofSparesTheCheck(t *testing.T) {
	r, m, raw, order := compressedImage(t)
	links, err := r.Links("vm1", "check1", "vda")
	if err != nil {
		t.Fatal(err)
	}
	chain, proofs, closeChain, err := OpenChain(context.Background(), links, ChainOptions{Warn: func(place string) { t.Error(place) }})
	if err != nil {
		t.Fatal(err)
	}
	defer closeChain()
	content, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	reader, cluster := chain.NewReader(), chain.ClusterSize()
	buf := directio.Buffer(int(cluster))
	for _, at := range order {
		if err := reader.Read(buf, []int64{at}); err != nil || !bytes.Equal(buf, content[at:at+cluster]) {
			t.Fatalf("the cluster at %d: %v, or it is another", at, err)
		}
	}
	proven := []int64{}
	for i := range layoutOf(m.Disks[0]).ranges() {
		if proofs[0].has(i) {
			proven = append(proven, i)
		}
	}
	if all := layoutOf(m.Disks[0]).ranges(); int64(len(proven)) < all-3 {
		t.Fatalf("%d of %d ranges are proven", len(proven), all)
	}
	flip(t, links[0].Path, proven[len(proven)/2]*hashlist.RangeLength+12345)
	check := func(p *Proof) []Damage {
		damage, err := r.CheckImage(context.Background(), m, m.Disks[0], CheckOptions{Proof: p})
		if err != nil {
			t.Fatal(err)
		}
		return damage
	}
	if damage := check(proofs[0]); len(damage) > 0 {
		t.Errorf("it was read again: %v", damage)
	}
	if damage := check(nil); len(damage) != 1 {
		t.Errorf("without a proof: %v", damage)
	}
}

// proofOfAll has read all of the image of oneImage.
func proofOfAll(t *testing.T, r *Repository, m manifest.Manifest) *Proof {
	t.Helper()
	shared := newReading(context.Background(), func(string) {})
	defer shared.close()
	reader := shared.reader(Link{m, m.Disks[0], filepath.Join(r.PointDir("vm1", "check1"), "vda.qcow2")})
	if _, err := reader.ReadAt(directio.Buffer(int(m.Disks[0].ImageBytes+pageSize)), 0); err != io.EOF {
		t.Fatal(err)
	}
	return reader.proof
}

// A hash list that is damaged after it has proven the image is no damage of the image.
func TestListDamagedAfterTheProof(t *testing.T) {
	r, m := oneImage(t, hashlist.RangeLength)
	proof := proofOfAll(t, r, m)
	flip(t, filepath.Join(r.PointDir("vm1", "check1"), "vda.hashes"), hashesHeaderSize+hashSize)
	found, err := r.CheckImage(context.Background(), m, m.Disks[0], CheckOptions{Proof: proof})
	if err != nil || len(found) != 1 || !found[0].Harmless {
		t.Errorf("got %s, %v, want harmless damage of the list", describe(found), err)
	}
}

// What a computed list has proven is not what the list on disk says: a check takes
// nothing of it, and so reads the image once.
func TestProofOfAComputedList(t *testing.T) {
	r, m := oneImage(t, hashlist.RangeLength)
	flip(t, filepath.Join(r.PointDir("vm1", "check1"), "vda.hashes"), hashesHeaderSize+hashSize)
	read := func(p *Proof) (bytes int64) {
		var sum atomic.Int64
		found, err := r.CheckImage(context.Background(), m, m.Disks[0], CheckOptions{Proof: p, Progress: func(n int64) { sum.Add(n) }})
		if err != nil || len(found) != 1 || !found[0].Harmless {
			t.Errorf("got %s, %v, want harmless damage of the list", describe(found), err)
		}
		return sum.Load()
	}
	if got, want := read(proofOfAll(t, r, m)), read(nil); got != want {
		t.Errorf("read %d bytes, want %d", got, want)
	}
}

// Readers side by side, of more ranges than the cache holds, get what the file
// has, and the end of the file where it is.
// What storage cannot read is damage, and no reason to try it every night again: an
// incremental leaves such a base. The memory of a process cannot be read at 0: EIO.
func TestProvingReaderOfWhatCannotBeRead(t *testing.T) {
	l := layout{1 << 20, hashlist.FirstRangeLength}
	shared := newReading(context.Background(), func(place string) { t.Error(place) })
	defer shared.close()
	reader := shared.reader(Link{Point: manifest.Manifest{ID: "check1", Domain: "vm1"}, Path: "/proc/self/mem",
		Disk: manifest.Disk{Target: "vda", Image: "vda.qcow2", ImageBytes: l.length}})
	for _, p := range [][]byte{directio.Buffer(hashlist.FirstRangeLength), make([]byte, 512)} {
		_, err := reader.ReadAt(p, 0)
		var damaged *DamagedError
		if !errors.As(err, &damaged) || !strings.Contains(err.Error(), "cannot be read: input/output error") || damaged.Points[0].ID != "check1" {
			t.Errorf("%d bytes: %v", len(p), err)
		}
	}
}

func TestProvingReadersSideBySide(t *testing.T) {
	const ranges = 64
	const unit = hashlist.FirstRangeLength // so that there are more than the cache holds
	content := make([]byte, ranges*unit-4096)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(content)
	path := filepath.Join(t.TempDir(), "vda.qcow2")
	mustWrite(t, path, string(content))
	l := layout{int64(len(content)), unit}
	list := appendHashes(l.header(), content, unit)
	mustWrite(t, filepath.Join(filepath.Dir(path), "vda.hashes"), string(list))
	shared := newReading(context.Background(), func(place string) { t.Error(place) })
	defer shared.close()
	reader := shared.reader(Link{Disk: manifest.Disk{Target: "vda", Image: "vda.qcow2", ImageBytes: l.length, Hashes: digest.Of(list)}, Path: path})
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
	if n := shared.cache.bytes; n > mostCached {
		t.Errorf("%d bytes are kept", n)
	}
	proven := 0
	for i := range int64(ranges) {
		if reader.proof.has(i) {
			proven++
		}
	}
	if proven < ranges/2 {
		t.Errorf("%d of %d ranges are proven", proven, ranges)
	}
}
