package verify

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/repository"
)

// siteWithExtras has one point with UEFI variables, and a kernel and an initial RAM disk that
// are large.
func siteWithExtras(t *testing.T) *repository.Repository {
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
	p, err := l.Begin("copy1", testIdentity)
	if err != nil {
		t.Fatal(err)
	}
	writeImage(t, p, "vda", qcow2.Options{VirtualSize: diskSize}, 20)
	at := time.Now().UTC()
	m := manifest.Manifest{ID: "copy1", Kind: manifest.KindCopy, Domain: "vm1", DomainUUID: uuid, Time: at, Finished: at,
		Consistency: manifest.ConsistencyCrash, Disks: []manifest.Disk{{Target: "vda", Kind: manifest.KindFull, VirtualSize: diskSize}}}
	for kind, size := range map[manifest.ExtraKind]int64{manifest.ExtraNVRAM: 5000, manifest.ExtraKernel: smallExtra + 1, manifest.ExtraInitrd: smallExtra + 2} {
		name := string(kind)
		if kind == manifest.ExtraNVRAM {
			name += ".fd"
		}
		if err := p.WriteFile(name, bytes.Repeat([]byte{7}, int(size))); err != nil {
			t.Fatal(err)
		}
		m.Extras = append(m.Extras, manifest.Extra{Kind: kind, File: name, Path: "/" + name, Size: size})
	}
	if err := errors.Join(p.WriteFile(manifest.DomainXML, []byte("<domain/>")), p.Seal(m)); err != nil {
		t.Fatal(err)
	}
	return r
}

// What the guest needs besides its disks is sampled, too: small files every time, of large ones
// those read longest ago. A quick run looks at their size.
func TestSamplesOfExtras(t *testing.T) {
	withoutQemuImg(t)
	whole := siteWithExtras(t)
	for _, tt := range []struct {
		file  string
		spoil func(path string) error
		quick bool
		first bool // found by the first of two samples of a half, whichever files it reads
	}{
		{"nvram.fd", func(p string) error { return flip(p, 4999) }, true, true},
		{"kernel", func(p string) error { return flip(p, smallExtra) }, false, false},
		{"initrd", func(p string) error { return flip(p, 0) }, false, false},
		{"initrd", func(p string) error { return os.Truncate(p, smallExtra) }, true, true},
		{"kernel", os.Remove, true, true},
		{"kernel", func(p string) error { return errors.Join(os.Remove(p), os.Symlink("initrd", p)) }, true, true},
	} {
		r := copyOf(t, whole)
		path := filepath.Join(r.PointDir("vm1", "copy1"), tt.file)
		if err := tt.spoil(path); err != nil {
			t.Fatal(err)
		}
		found := func(request Request) bool {
			report := verified(t, r, request)
			if len(report.Damage) > 0 && (len(report.Damage) != 1 || report.Damage[0].File != "vm1/copy1/"+tt.file || len(report.Damage[0].Breaks) != 1) {
				t.Errorf("%s: %+v", tt.file, report.Damage)
			}
			return len(report.Damage) > 0
		}
		if got := found(Request{Quick: true}); got != tt.quick {
			t.Errorf("%s: found by a quick run: %v", tt.file, got)
		}
		first, second := found(Request{Sample: 50}), found(Request{Sample: 50})
		if !first && tt.first || !first && !second {
			t.Errorf("%s: found by samples: %v, %v", tt.file, first, second)
		}
		if v := r.Verified("vm1")["copy1"]; v.Sound || v.Manifest == "" {
			t.Errorf("%s: noted %+v", tt.file, v)
		}
	}
	verified(t, whole, Request{Sample: 50})
	if v, known := whole.Verified("vm1")["copy1"]; known {
		t.Errorf("noted %+v after one half", v)
	}
	verified(t, whole, Request{Sample: 50})
	if v := whole.Verified("vm1")["copy1"]; !v.Sound {
		t.Errorf("noted %+v after both", v)
	}
}
