package repository

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/manifest"
)

// Nothing is exchanged that is not the same point, whole and as it was.
func TestCompleteRefuses(t *testing.T) {
	_, l := chainOfDisks(t, 3)
	other := mustLock(t, l.Repository(), "vm2")
	makePoint(t, other, point{id: "check1", kind: manifest.KindFull, targets: []string{"vda"}})
	p, good := beginMerge(t, l, "check3", "check1")
	for name, spoil := range map[string]func(*manifest.Manifest){
		"another id":           func(m *manifest.Manifest) { m.ID = "check4" },
		"another identity":     func(m *manifest.Manifest) { m.Identity = "fedcba9876543210" },
		"another time":         func(m *manifest.Manifest) { m.Time = m.Time.Add(1) },
		"another checkpoint":   func(m *manifest.Manifest) { m.Checkpoint = manifest.CheckpointName(m.ID, m.Identity) },
		"another domain":       func(m *manifest.Manifest) { m.Domain = "vm2" },
		"another UUID":         func(m *manifest.Manifest) { m.DomainUUID = testRepository },
		"another repository":   func(m *manifest.Manifest) { m.Repository = testRepository },
		"another format":       func(m *manifest.Manifest) { m.Format = 1 },
		"a parent that is not": func(m *manifest.Manifest) { m.Parent = "check9" },
		"no parent":            func(m *manifest.Manifest) { m.Parent = "" },
		"a parent on its own":  func(m *manifest.Manifest) { m.Parent = "check2" },
		"an image that the parent has not": func(m *manifest.Manifest) {
			m.Disks[0].Parent = manifest.ParentPath("check1", "vdz.qcow2")
		},
		"a disk less":       func(m *manifest.Manifest) { m.Disks = m.Disks[:1] },
		"a disk more":       func(m *manifest.Manifest) { m.Disks = append(m.Disks, manifest.Disk{Target: "vdz"}) },
		"a disk twice":      func(m *manifest.Manifest) { m.Disks[1] = m.Disks[0] },
		"of another size":   func(m *manifest.Manifest) { m.Disks[0].VirtualSize++ },
		"of no consistency": func(m *manifest.Manifest) { m.Consistency = "" },
	} {
		m := good
		m.Disks = slices.Clone(good.Disks)
		spoil(&m)
		if p.Complete(m) == nil {
			t.Errorf("%s: complete", name)
		}
		if err := p.Exchange(context.Background(), 0); err == nil || !strings.Contains(err.Error(), "not complete") {
			t.Errorf("%s: %v", name, err)
		}
		wantWhole(t, l.Repository(), "check3")
	}
	must(t, p.Complete(good))

	m, err := l.Repository().Point("vm1", "check2")
	must(t, err)
	p, err = l.BeginReplacement(m)
	must(t, err)
	for _, d := range m.Disks {
		must(t, p.KeepDisk(d))
	}
	if err := p.Complete(m); err == nil || !strings.Contains(err.Error(), "small files") {
		t.Errorf("without the small files: %v", err)
	}
	must(t, p.KeepFiles(), p.Complete(m))
}

func TestExchangeRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(r *Repository, l *Lock, p *Replacement) error
		want  string
	}{
		"another manifest": {func(r *Repository, _ *Lock, _ *Replacement) error {
			return edit(filepath.Join(r.PointDir("vm1", "check2"), manifest.FileName), "crash", "krash")
		}, "changed since"},
		"gone":   {func(r *Repository, _ *Lock, _ *Replacement) error { return os.RemoveAll(r.PointDir("vm1", "check2")) }, "changed since"},
		"hidden": {func(_ *Repository, l *Lock, _ *Replacement) error { return l.Hide("check2", "policy") }, "changed since"},
		"half a replacement": {func(_ *Repository, _ *Lock, p *Replacement) error {
			return os.Remove(filepath.Join(p.Dir(), manifest.FileName))
		}, "not complete"},
		"no lock": {func(_ *Repository, l *Lock, _ *Replacement) error { return l.Unlock() }, "lock was released"},
	} {
		r, l := chainOfDisks(t, 2)
		p, m := beginMerge(t, l, "check2", "")
		must(t, p.Complete(m), tt.spoil(r, l, p))
		if err := p.Exchange(context.Background(), 0); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
		if m, err := r.readManifest("vm1", "check2"); err == nil && m.Parent != "check1" {
			t.Errorf("%s: exchanged", name)
		}
		must(t, p.Discard())
	}
}

func TestBeginReplacementRefuses(t *testing.T) {
	r, l := chainOfDisks(t, 2)
	m, err := r.Point("vm1", "check2")
	must(t, err)
	other := m
	other.Warnings = []string{"x"}
	if _, err := l.BeginReplacement(other); !errors.Is(err, errChanged) {
		t.Errorf("another manifest: %v", err)
	}
	other = m
	other.ID = "check9"
	if _, err := l.BeginReplacement(other); !errors.Is(err, manifest.ErrNoPoint) {
		t.Errorf("no point: %v", err)
	}
	p, err := l.BeginReplacement(m)
	must(t, err)
	if _, err := l.BeginReplacement(m); !errors.Is(err, fs.ErrExist) {
		t.Errorf("twice: %v", err)
	}
	d := m.Disks[0]
	d.Hashes = m.Disks[1].Hashes
	if p.KeepDisk(d) == nil || p.KeepDisk(manifest.Disk{Target: "../check1/vda", Image: "../check1/vda.qcow2"}) == nil {
		t.Error("kept a disk that is not the point's")
	}
	must(t, l.Unlock())
	if _, err := l.BeginReplacement(m); err == nil {
		t.Error("begun without the lock")
	}
}

// A file system without the exchange says so, and the point stays. FUSE is one: the name
// alone is enough here, as with two file systems there is no exchange, either.
func TestExchangeNotSupported(t *testing.T) {
	r, l := chainOfDisks(t, 2)
	p, m := beginMerge(t, l, "check2", "")
	must(t, p.Complete(m))
	elsewhere := t.TempDir()
	must(t, unix.Mount("tmpfs", elsewhere, "tmpfs", 0, "size=1m"))
	t.Cleanup(func() { must(t, unix.Unmount(elsewhere, unix.MNT_DETACH)) })
	must(t, os.CopyFS(filepath.Join(elsewhere, "x"), os.DirFS(p.Dir())))
	dir := p.dir
	p.dir = filepath.Join(elsewhere, "x")
	if err := p.Exchange(context.Background(), 0); !errors.Is(err, unix.EXDEV) {
		t.Errorf("got %v", err)
	}
	p.dir = dir
	must(t, p.Discard())
	wantWhole(t, r, "check2")
}
