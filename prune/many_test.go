package prune

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

// BenchmarkManyPoints is a dry run over chains of 100 points, all of them verified, of which
// five chains stay. No image is opened.
func BenchmarkManyPoints(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			repo := manyPoints(b, n)
			request := last(500)
			request.Domain, request.DryRun = "vm1", true
			for b.Loop() {
				result, err := Run(context.Background(), repo, request)
				if err != nil || len(result.Deleted) != n-500 || len(result.Held) != 0 {
					b.Fatalf("%d points deleted, %d held: %v", len(result.Deleted), len(result.Held), err)
				}
			}
		})
	}
}

// TestPruneDeletesManyPoints deletes whole chains, in several turns: newest first.
func TestPruneDeletesManyPoints(t *testing.T) {
	const n = 2*deletedAtOnce + 10
	repo := manyPoints(t, n)
	request := last(10)
	request.Domain = "vm1"
	result, err := Run(context.Background(), repo, request)
	if err != nil || len(result.Deleted) != n-10 {
		t.Fatalf("%d points deleted: %v", len(result.Deleted), err)
	}
	for i, id := range result.Deleted {
		if want := fmt.Sprintf("check%d", n-10-i); id != want {
			t.Fatalf("deletion %d is that of %s, want %s", i, id, want)
		}
	}
	l, err := repo.Lineage("vm1")
	if err != nil || len(l.All()) != 10 {
		t.Errorf("%d points are left: %v", len(l.All()), err)
	}
}

// manyPoints makes a repository whose points have manifests and nothing else.
func manyPoints(t testing.TB, n int) *repository.Repository {
	t.Helper()
	repo, err := repository.Create(filepath.Join(t.TempDir(), "repo"))
	if err != nil {
		t.Fatal(err)
	}
	verified := map[string]repository.Verification{}
	m := manifest.Manifest{Format: manifest.Format, Repository: repo.ID(), Domain: "vm1", DomainUUID: domainUUID,
		Time: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Consistency: manifest.ConsistencyCrash}
	for i := 1; i <= n; i++ {
		m = nextHour(m, i)
		dir := repo.PointDir("vm1", m.ID)
		data, err := manifest.Encode(m)
		if err == nil {
			err = os.MkdirAll(dir, 0o700)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, manifest.FileName), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		digest, err := repo.ManifestDigest("vm1", m.ID)
		if err != nil {
			t.Fatal(err)
		}
		verified[m.ID] = repository.Verification{Time: m.Time, Manifest: digest, Sound: true}
	}
	if err := repo.SetVerified("vm1", verified); err != nil {
		t.Fatal(err)
	}
	return repo
}

// nextHour is the manifest of point i, which follows another one.
func nextHour(before manifest.Manifest, i int) manifest.Manifest {
	m := before
	m.ID, m.Identity, m.Kind = fmt.Sprintf("check%d", i), manifest.NewIdentity(), manifest.KindFull
	m.Time = before.Time.Add(time.Hour)
	m.Finished = m.Time
	m.Parent, m.ParentTime, m.ParentIdentity = "", time.Time{}, ""
	d := manifest.Disk{Target: "vda", Image: "vda.qcow2", Kind: manifest.KindFull, VirtualSize: cluster, ImageBytes: 5 * cluster,
		HashRange: cluster, Hashes: "blake3:" + fmt.Sprintf("%064d", i)}
	if i%100 != 1 {
		m.Kind, d.Kind = manifest.KindInc, manifest.KindInc
		m.Parent, m.ParentTime, m.ParentIdentity = before.ID, before.Time, before.Identity
		d.Parent = manifest.ParentPath(before.ID, d.Image)
	}
	m.Disks = []manifest.Disk{d}
	return m
}
