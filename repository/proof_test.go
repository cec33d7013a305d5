package repository

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/diskimage"
	"github.com/virtbackup/virtbackup/hashlist"
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
	chain, proofs, closeChain, err := diskimage.OpenChain(context.Background(), links, hashlist.ReadOptions{Warn: func(place string) { t.Error(place) }})
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
	proven, all := []int64{}, (m.Disks[0].ImageBytes+hashlist.RangeLength-1)/hashlist.RangeLength
	for i := range all {
		if proofs[0].Has(i) {
			proven = append(proven, i)
		}
	}
	if int64(len(proven)) < all-3 {
		t.Fatalf("%d of %d ranges are proven", len(proven), all)
	}
	flip(t, links[0].Path, proven[len(proven)/2]*hashlist.RangeLength+12345)
	check := func(p *hashlist.ProvenRanges) []damage.Place {
		damage, err := diskimage.Check(context.Background(), r.Link(m, m.Disks[0]), hashlist.CheckOptions{Proven: p})
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
func proofOfAll(t *testing.T, r *Repository, m manifest.Manifest) *hashlist.ProvenRanges {
	t.Helper()
	reader, closeReader := diskimage.OpenImage(context.Background(), diskimage.Link{Point: m, Disk: m.Disks[0], Path: filepath.Join(r.PointDir("vm1", "check1"), "vda.qcow2")}, hashlist.ReadOptions{})
	defer closeReader()
	if _, err := reader.ReadAt(directio.Buffer(int(m.Disks[0].ImageBytes+4096)), 0); err != io.EOF {
		t.Fatal(err)
	}
	return reader.Proven()
}

// A hash list that is damaged after it has proven the image is no damage of the image.
func TestListDamagedAfterTheProof(t *testing.T) {
	r, m := oneImage(t, hashlist.RangeLength)
	proof := proofOfAll(t, r, m)
	flip(t, filepath.Join(r.PointDir("vm1", "check1"), "vda.hashes"), firstHash+hashLength)
	found, err := diskimage.Check(context.Background(), r.Link(m, m.Disks[0]), hashlist.CheckOptions{Proven: proof})
	if err != nil || len(found) != 1 || !found[0].Harmless {
		t.Errorf("got %s, %v, want harmless damage of the list", describe(found), err)
	}
}

// What a computed list has proven is not what the list on disk says: a check takes
// nothing of it, and so reads the image once.
func TestProofOfAComputedList(t *testing.T) {
	r, m := oneImage(t, hashlist.RangeLength)
	flip(t, filepath.Join(r.PointDir("vm1", "check1"), "vda.hashes"), firstHash+hashLength)
	read := func(p *hashlist.ProvenRanges) (bytes int64) {
		var sum atomic.Int64
		found, err := diskimage.Check(context.Background(), r.Link(m, m.Disks[0]), hashlist.CheckOptions{Proven: p, Progress: func(n int64) { sum.Add(n) }})
		if err != nil || len(found) != 1 || !found[0].Harmless {
			t.Errorf("got %s, %v, want harmless damage of the list", describe(found), err)
		}
		return sum.Load()
	}
	if got, want := read(proofOfAll(t, r, m)), read(nil); got != want {
		t.Errorf("read %d bytes, want %d", got, want)
	}
}

// What storage cannot read is damage, and no reason to try it every night again: an
// incremental leaves such a base. The memory of a process cannot be read at 0: EIO.
func TestReaderOfWhatCannotBeRead(t *testing.T) {
	reader, closeReader := diskimage.OpenImage(context.Background(), diskimage.Link{Point: manifest.Manifest{ID: "check1", Domain: "vm1"}, Path: "/proc/self/mem",
		Disk: manifest.Disk{Target: "vda", Image: "vda.qcow2", ImageBytes: 1 << 20}}, hashlist.ReadOptions{Warn: func(place string) { t.Error(place) }})
	defer closeReader()
	for _, p := range [][]byte{directio.Buffer(hashlist.FirstRangeLength), make([]byte, 512)} {
		_, err := reader.ReadAt(p, 0)
		var damaged *damage.Error
		if !errors.As(err, &damaged) || !strings.Contains(err.Error(), "cannot be read: input/output error") || damaged.Points[0].ID != "check1" {
			t.Errorf("%d bytes: %v", len(p), err)
		}
	}
}
