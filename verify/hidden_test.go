package verify

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/keep"
	"github.com/virtbackup/virtbackup/lineage"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

// hide hides points of a site.
func hide(t *testing.T, r *repository.Repository, ids ...string) {
	t.Helper()
	l, err := r.Lock("vm1")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Unlock()
	for _, id := range ids {
		if err := l.Hide(id, "policy"); err != nil {
			t.Fatal(err)
		}
	}
}

// A listed point is verified with the hidden ones that it needs; others are not read.
func TestHiddenPoints(t *testing.T) {
	r := site(t)
	hide(t, r, "check1", "check2", "diff4")
	report := verified(t, r, Request{})
	if got := outcome(report.Domains[0]); report.Err() != nil || got != "check1 ok, check2 ok, check3 ok, copy5 ok" {
		t.Errorf("%s, %v", got, report.Err())
	}
	for _, p := range report.Domains[0].Points {
		if hidden := p.ID == "check1" || p.ID == "check2"; p.Hidden != hidden {
			t.Errorf("%s is reported as hidden: %v", p.ID, p.Hidden)
		}
	}
	if got := strings.Join(report.Domains[0].Restores, " "); got != "check3 copy5" {
		t.Errorf("restores %s", got)
	}
	report = verified(t, r, Request{Domain: "vm1", Point: "check3"})
	if got := outcome(report.Domains[0]); got != "check1 ok, check2 ok, check3 ok, copy5 not checked" {
		t.Errorf("check3: %s", got)
	}
	var hidden *lineage.HiddenError
	if _, err := Run(context.Background(), r, Request{Domain: "vm1", Point: "check2"}); !errors.As(err, &hidden) || !errors.Is(err, manifest.ErrNoPoint) {
		t.Errorf("a hidden point: %v", err)
	}
}

// Damage in a hidden point counts for those that need it.
func TestDamageInAHiddenPoint(t *testing.T) {
	whole := site(t)
	hide(t, whole, "check1", "check2", "diff4")
	for name, tt := range map[string]struct {
		spoil func(dir string) error
		want  string
		lost  string
	}{
		"an image": {func(dir string) error { return flip(filepath.Join(dir, "check2", "vda.qcow2"), 3*cluster) },
			"check1 ok, check2 damaged without vda, check3 lost without vda, copy5 ok", "check3"},
		"a manifest": {func(dir string) error { return os.Remove(filepath.Join(dir, "check2", manifest.FileName)) },
			"check2 damaged, check3 lost without vda+vdb, copy5 ok", "check2 check3"},
		"a point that nobody needs": {func(dir string) error { return flip(filepath.Join(dir, "diff4", "vda.qcow2"), 3*cluster) },
			"check1 ok, check2 ok, check3 ok, copy5 ok", ""},
	} {
		r := copyOf(t, whole)
		if err := tt.spoil(filepath.Join(r.Dir(), "vm1")); err != nil {
			t.Fatal(err)
		}
		report := verified(t, r, Request{})
		if got := outcome(report.Domains[0]); got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
		if got := strings.Join(report.Domains[0].Lost, " "); got != tt.lost || (report.Err() == nil) != (tt.lost == "") {
			t.Errorf("%s: lost %s, %v", name, got, report.Err())
		}
	}
}

// Files that say what is hidden, protected and pinned are looked at, too.
func TestDamageOfRetention(t *testing.T) {
	whole := site(t)
	for file, inDir := range map[string]string{
		"check1/" + lineage.RemovedName: "check1", keep.ProtectedName: "", keep.PinsName + "/x.json": keep.PinsName, instants.FileName: "",
	} {
		r := copyOf(t, whole)
		dir := filepath.Join(r.Dir(), "vm1")
		if err := errors.Join(os.MkdirAll(filepath.Join(dir, inDir), 0o700), os.WriteFile(filepath.Join(dir, file), []byte("{}"), 0o600)); err != nil {
			t.Fatal(err)
		}
		report := verified(t, r, Request{})
		if len(report.Damage) != 1 || report.Damage[0].File != filepath.Join("vm1", file) || !report.Damage[0].Harmless || report.Damage[0].What == "" {
			t.Errorf("%s: %+v", file, report.Damage)
		}
		if got := strings.Join(report.Domains[0].Restores, " "); got != "check1 check2 check3 diff4 copy5" {
			t.Errorf("%s: restores %s", file, got)
		}
	}
}

// A point that is replaced as soon as it is read is not noted as verified, nor are those that
// need it.
func TestNotedIsWhatWasRead(t *testing.T) {
	r := site(t)
	v := &run{Request: Request{Log: slog.New(slog.DiscardHandler), Progress: func(string, int64, int64) {}}, repo: r}
	d, err := v.verifyDomain(context.Background(), "vm1")
	if err != nil {
		t.Fatal(err)
	}
	m, err := r.Point("vm1", "check1")
	if err != nil {
		t.Fatal(err)
	}
	m.Warnings = []string{"another one"}
	data, err := manifest.Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.PointDir("vm1", "check1"), manifest.FileName), data, 0o600); err != nil {
		t.Fatal(err)
	}
	d.note(now())
	if known := r.Verified("vm1"); known["check1"].Sound || known["check2"].Sound || !known["copy5"].Sound {
		t.Errorf("noted are %+v", known)
	}
}

// While points are read, none is replaced.
func TestVerifyHoldsTheReaders(t *testing.T) {
	r := site(t)
	l, err := r.Lock("vm1")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Unlock()
	var looked atomic.Bool // progress comes from several goroutines
	verified(t, r, Request{Progress: func(string, int64, int64) {
		var readers *repository.ReadersError
		if err := l.ExcludeReaders(context.Background(), 0, func() error { return nil }); !errors.As(err, &readers) {
			t.Errorf("got %v", err)
		}
		looked.Store(true)
	}})
	if !looked.Load() {
		t.Error("no progress")
	}
}

// On a read-only file system there is no lock: a point that was replaced while it was read,
// and looked damaged, is read again.
func TestVerifyAgain(t *testing.T) {
	r := site(t)
	dir := t.TempDir()
	if err := errors.Join(unix.Mount(r.Dir(), dir, "", unix.MS_BIND, ""), unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	c, err := repository.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(r.Dir(), "vm1", "copy5", "vda.qcow2")
	if err := flip(file, 3*cluster); err != nil {
		t.Fatal(err)
	}
	var mended atomic.Bool
	report := verified(t, c, Request{Progress: func(_ string, read, expected int64) {
		if read < expected/2 || mended.Swap(true) {
			return
		}
		if err := os.RemoveAll(filepath.Join(r.Dir(), "vm1", "diff4")); err != nil {
			t.Error(err)
		}
	}})
	// The damage is there both times, and reported once; what went meanwhile is not reported.
	if got := outcome(report.Domains[0]); got != "check1 ok, check2 ok, check3 ok, copy5 damaged without vda" || len(report.Damage) != 1 {
		t.Errorf("%s: %v", got, report.Damage)
	}
}
