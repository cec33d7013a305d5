package verify

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/repository"
)

const (
	cluster  = 64 << 10
	mib      = 1 << 20
	diskSize = 256 * mib
	uuid     = "6f9619ff-8b86-d011-b42d-00c04fc964ff"
)

// site is a repository with check1 (full) <- check2 <- check3, diff4 since check2,
// and copy5, all with vda, and the check points also with vdb.
func site(t testing.TB) *repository.Repository {
	t.Helper()
	r, err := repository.Create(filepath.Join(t.TempDir(), "repo"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := r.Lock("vm1")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Unlock()
	makePoint(t, l, "check1", manifest.KindFull, "", 40, "vda", "vdb")
	makePoint(t, l, "check2", manifest.KindInc, "check1", 10, "vda", "vdb")
	makePoint(t, l, "check3", manifest.KindInc, "check2", 10, "vda", "vdb")
	makePoint(t, l, "diff4", manifest.KindDiff, "check2", 10, "vda")
	makePoint(t, l, "copy5", manifest.KindCopy, "", 40, "vda")
	return r
}

// makePoint seals a point whose disks have a number of scattered clusters.
func makePoint(t testing.TB, l *repository.Lock, id string, kind manifest.Kind, parent string, clusters int, targets ...string) {
	t.Helper()
	p, err := l.Begin(id, testIdentity)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC()
	m := manifest.Manifest{ID: id, Kind: kind, Parent: parent, Domain: l.Domain(), DomainUUID: uuid,
		Time: now, Finished: now, Consistency: manifest.ConsistencyCrash}
	for _, target := range targets {
		d := manifest.Disk{Target: target, Kind: manifest.KindFull, VirtualSize: diskSize}
		o := qcow2.Options{VirtualSize: diskSize}
		if parent != "" {
			d.Kind, d.Parent = manifest.KindInc, manifest.ParentPath(parent, target+".qcow2")
			o.BackingFile, o.BackingFormat = d.Parent, "qcow2"
		}
		writeImage(t, p, target, o, clusters)
		m.Disks = append(m.Disks, d)
	}
	for _, name := range []string{manifest.DomainXML, "checkpoint.xml"} {
		if err := p.WriteFile(name, []byte("<"+name+"/>")); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Seal(m); err != nil {
		t.Fatal(err)
	}
}

func writeImage(t testing.TB, p *repository.Partial, target string, o qcow2.Options, clusters int) {
	t.Helper()
	im, err := p.CreateImage(target, directio.Auto)
	if err != nil {
		t.Fatal(err)
	}
	w, err := qcow2.NewWriter(im, o)
	if err != nil {
		t.Fatal(err)
	}
	var key [32]byte
	copy(key[:], p.ID()+target)
	random := rand.NewChaCha8(key)
	data := directio.Buffer(cluster)
	for i := range int64(clusters) {
		random.Read(data)
		binary.LittleEndian.PutUint64(data, uint64(i))
		if err := w.Write([]int64{i * 37 * cluster % o.VirtualSize}, data); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Finish(im.Sync); err != nil {
		t.Fatal(err)
	}
	if _, _, err := im.Finish(); err != nil {
		t.Fatal(err)
	}
}

func copyOf(t testing.TB, r *repository.Repository) *repository.Repository {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "repo")
	if err := os.CopyFS(dir, os.DirFS(r.Dir())); err != nil {
		t.Fatal(err)
	}
	c, err := repository.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// testIdentity is the identity of all points: these tests distinguish them by their ids.
const testIdentity = "0123456789abcdef"
