package repository

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/diskimage"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/qcow2"

	"github.com/virtbackup/virtbackup/internal/directio"
)

// point describes a point to make in a test.
type point struct {
	id, parent string
	kind       manifest.Kind
	targets    []string
}

// makePartial writes everything of a point but its seal.
func makePartial(t testing.TB, l *Lock, pt point) (*Partial, manifest.Manifest) {
	t.Helper()
	p, err := l.Begin(pt.id, testIdentity)
	if err != nil {
		t.Fatal(err)
	}
	m := manifest.Manifest{
		ID: pt.id, Kind: pt.kind, Parent: pt.parent, Domain: l.Domain(), DomainUUID: testDomainUUID,
		Time: time.Now().UTC(), Finished: time.Now().UTC(), Consistency: manifest.ConsistencyCrash,
	}
	for _, target := range pt.targets {
		d := manifest.Disk{Target: target, Kind: manifest.KindFull, VirtualSize: 1 << 20}
		if pt.parent != "" {
			d.Kind, d.Parent = manifest.KindInc, manifest.ParentPath(pt.parent, target+".qcow2")
		}
		im, err := p.CreateImage(target, directio.Auto)
		if err != nil {
			t.Fatal(err)
		}
		writeTestImage(t, im, d)
		if _, _, err := im.Finish(); err != nil {
			t.Fatal(err)
		}
		m.Disks = append(m.Disks, d)
	}
	if err := p.WriteFile("domain.xml", []byte("<domain/>")); err != nil {
		t.Fatal(err)
	}
	return p, m
}

func makePoint(t testing.TB, l *Lock, pt point) {
	t.Helper()
	p, m := makePartial(t, l, pt)
	if err := p.Seal(m); err != nil {
		t.Fatal(err)
	}
}

func TestSealListsThePoint(t *testing.T) {
	r := newRepository(t)
	l := mustLock(t, r, "my guest")
	makePoint(t, l, point{id: "check1", kind: manifest.KindFull, targets: []string{"vda", "vdb"}})
	points, err := pointsOf(r, "my guest")
	if err != nil || len(points) != 1 {
		t.Fatalf("points %+v, %v", points, err)
	}
	m := points[0]
	if m.Format != manifest.Format || m.Repository != r.ID() {
		t.Errorf("format %d, repository %s", m.Format, m.Repository)
	}
	dir := r.PointDir("my guest", "check1")
	if d, err := localfile.Digest(filepath.Join(dir, "domain.xml")); err != nil || m.Files["domain.xml"] != d {
		t.Errorf("digest of domain.xml %s, %v, manifest says %s", d, err, m.Files["domain.xml"])
	}
	for _, d := range m.Disks {
		info, err := os.Stat(filepath.Join(dir, d.Image))
		if err != nil || info.Size() != d.ImageBytes || d.Image != d.Target+".qcow2" {
			t.Errorf("image of %+v: %v", d, err)
		}
		if sum, err := localfile.Digest(filepath.Join(dir, d.HashesFile())); err != nil || sum != d.Hashes {
			t.Errorf("digest of hash list %s, %v, manifest says %s", sum, err, d.Hashes)
		}
	}
	if names, err := l.Leftovers(); err != nil || len(names) != 0 {
		t.Errorf("leftovers %q, %v", names, err)
	}
}

// A process that dies after any step of Seal leaves the point listed and whole,
// or not listed; the next run can clear the rest away and seal it again.
func TestDeathAfterEachStepOfSeal(t *testing.T) {
	steps := len((&Partial{lock: &Lock{repo: &Repository{}}}).sealSteps(nil))
	for died := range steps + 1 {
		r := newRepository(t)
		l := mustLock(t, r, "vm1")
		pt := point{id: "check1", kind: manifest.KindFull, targets: []string{"vda"}}
		p, m := makePartial(t, l, pt)
		manifest, err := p.completeManifest(m)
		if err != nil {
			t.Fatal(err)
		}
		last := "start"
		for _, step := range p.sealSteps(manifest)[:died] {
			last = step.name
			if err := step.do(); err != nil {
				t.Fatalf("%s: %v", step.name, err)
			}
		}
		points, err := pointsOf(r, "vm1")
		if err != nil {
			t.Errorf("after %s: %v", last, err)
		}
		left, err := l.Leftovers()
		if err != nil || len(points)+len(left) != 1 {
			t.Fatalf("after %s: points %+v, leftovers %q, %v", last, points, left, err)
		}
		if wantListed := last == "rename point" || last == "sync domain"; (len(points) == 1) != wantListed {
			t.Errorf("after %s: listed %v, want %v", last, len(points) == 1, wantListed)
		}
		if len(left) == 0 {
			continue
		}
		if err := l.RemoveLeftover(left[0]); err != nil {
			t.Fatal(err)
		}
		makePoint(t, l, pt)
	}
}

func TestSealRefuses(t *testing.T) {
	tests := map[string]struct {
		spoil func(t *testing.T, p *Partial, m *manifest.Manifest)
		want  string
	}{
		"other id":     {func(_ *testing.T, _ *Partial, m *manifest.Manifest) { m.ID = "check9" }, "manifest is that of check9"},
		"other domain": {func(_ *testing.T, _ *Partial, m *manifest.Manifest) { m.Domain = "vm2" }, "of domain vm2"},
		"invalid":      {func(_ *testing.T, _ *Partial, m *manifest.Manifest) { m.Consistency = "" }, "consistency"},
		"disk too many": {func(_ *testing.T, _ *Partial, m *manifest.Manifest) {
			m.Disks = append(m.Disks, manifest.Disk{Target: "vdz"})
		}, "has no image"},
		"image too many": {func(_ *testing.T, _ *Partial, m *manifest.Manifest) { m.Disks = nil }, "1 images"},
		"image not finished": {func(t *testing.T, p *Partial, m *manifest.Manifest) {
			if _, err := p.CreateImage("vdb", directio.Auto); err != nil {
				t.Fatal(err)
			}
			m.Disks = append(m.Disks, manifest.Disk{Target: "vdb", Kind: manifest.KindFull})
		}, "not finished"},
		"over a point": {func(t *testing.T, p *Partial, _ *manifest.Manifest) {
			mustMkdir(t, p.lock.repo.PointDir("vm1", "check1"))
		}, "file exists"},
		"lock released": {func(t *testing.T, p *Partial, _ *manifest.Manifest) { p.lock.Unlock() }, "lock was released"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRepository(t)
			l := mustLock(t, r, "vm1")
			p, m := makePartial(t, l, point{id: "check1", kind: manifest.KindFull, targets: []string{"vda"}})
			tt.spoil(t, p, &m)
			if err := p.Seal(m); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if points, _ := pointsOf(r, "vm1"); len(points) != 0 {
				t.Errorf("listed all the same: %+v", points)
			}
			if err := p.Discard(); err != nil {
				t.Fatal(err)
			}
			if names, err := l.Leftovers(); err != nil || len(names) != 0 {
				t.Errorf("leftovers %q, %v", names, err)
			}
		})
	}
}

func TestUnsealTakesTheRenameBack(t *testing.T) {
	r := newRepository(t)
	l := mustLock(t, r, "vm1")
	p, m := makePartial(t, l, point{id: "check1", kind: manifest.KindFull})
	if err := p.Seal(m); err != nil {
		t.Fatal(err)
	}
	p.done = false // as if the last fsync had failed
	if err := p.unseal(); err != nil {
		t.Fatal(err)
	}
	if points, err := pointsOf(r, "vm1"); err != nil || len(points) != 0 {
		t.Errorf("points %+v, %v", points, err)
	}
	if err := p.Discard(); err != nil {
		t.Fatal(err)
	}
}

func TestDiscardIsIdempotentAndSparesASealedPoint(t *testing.T) {
	r := newRepository(t)
	l := mustLock(t, r, "vm1")
	p, m := makePartial(t, l, point{id: "check1", kind: manifest.KindFull, targets: []string{"vda"}})
	if err := p.Seal(m); err != nil {
		t.Fatal(err)
	}
	q, err := l.Begin("check2", testIdentity)
	if err != nil {
		t.Fatal(err)
	}
	im, err := q.CreateImage("vda", directio.Auto)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := p.Discard(); err != nil {
			t.Error(err)
		}
		if err := q.Discard(); err != nil {
			t.Error(err)
		}
	}
	if _, err := im.WriteAt(pageAligned(4096, 1), 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("write after Discard: %v", err)
	}
	if _, err := q.CreateImage("vdb", directio.Auto); err == nil {
		t.Error("image made after Discard")
	}
	if q.WriteFile("x", nil) == nil {
		t.Error("file written after Discard")
	}
	if points, err := pointsOf(r, "vm1"); err != nil || len(points) != 1 {
		t.Errorf("points %+v, %v", points, err)
	}
}

func TestBeginRefuses(t *testing.T) {
	r := newRepository(t)
	l := mustLock(t, r, "vm1")
	makePoint(t, l, point{id: "check1", kind: manifest.KindFull})
	p, err := l.Begin("check2", testIdentity)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"check1", "check2"} {
		if _, err := l.Begin(id, testIdentity); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: got %v, want ErrExist", id, err)
		}
	}
	for _, id := range []string{"", "../check3", "full1", "check03"} {
		if _, err := l.Begin(id, testIdentity); err == nil {
			t.Errorf("%q was begun", id)
		}
	}
	for _, name := range []string{"", "../x", manifest.FileName, "a/b"} {
		if p.WriteFile(name, nil) == nil {
			t.Errorf("file %q was written", name)
		}
	}
	for _, target := range []string{"", "../x", "a/b"} {
		if _, err := p.CreateImage(target, directio.Auto); err == nil {
			t.Errorf("image of %q was made", target)
		}
	}
	if err := l.Unlock(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Begin("check3", testIdentity); err == nil {
		t.Error("begun without the lock")
	}
}

// writeTestImage writes a qcow2 image with one cluster of data.
func writeTestImage(t testing.TB, im *diskimage.Image, d manifest.Disk) {
	t.Helper()
	o := qcow2.Options{VirtualSize: d.VirtualSize, BackingFile: d.Parent}
	if d.Parent != "" {
		o.BackingFormat = "qcow2"
	}
	w, err := qcow2.NewWriter(im, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Write([]int64{0}, pageAligned(w.ClusterSize(), uint64(len(d.Parent)))); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Finish(im.Sync); err != nil {
		t.Fatal(err)
	}
}

const (
	testRepository = "0b6a2c2e-9a43-4d1c-8d6c-1f3b5b1d7a11"
	testDomainUUID = "5d5a1f4e-3a3b-4a57-9d2e-6c0a6d1b2c33"

	// testIdentity is that of all points: they are told by their ids here.
	testIdentity = "0123456789abcdef"
)
