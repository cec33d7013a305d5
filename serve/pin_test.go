package serve

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/keep"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

// A server of a pinned point ends when the pin is gone, which is no error, or with the error of what it
// does; without the pin it does not begin.
func TestWhilePinned(t *testing.T) {
	repo, err := repository.Create(filepath.Join(t.TempDir(), "repo"))
	if err != nil {
		t.Fatal(err)
	}
	lock, err := repo.Lock("vm1")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Unlock()
	m := manifest.Manifest{ID: "check1", Domain: "vm1", Identity: "0123456789abcdef"}
	pin, err := keep.AddPin(repo.DomainDir("vm1"), m, "test", nil)
	if err != nil {
		t.Fatal(err)
	}
	never := func(context.Context, keep.Pin) error { t.Error("it was begun"); return nil }
	if err := whilePinned(t.Context(), repo, "vm1", "ffffffffffffffff", never); !fail.Is(err, fail.NotFound) {
		t.Errorf("without the pin: %v", err)
	}
	cause := fail.Errorf(fail.Usage, "", "ended")
	if err := whilePinned(t.Context(), repo, "vm1", pin.ID, func(_ context.Context, p keep.Pin) error {
		if p.Identity != m.Identity {
			t.Errorf("the pin is %+v", p)
		}
		return cause
	}); !fail.Is(err, fail.Usage) {
		t.Errorf("got %v", err)
	}
	err = whilePinned(t.Context(), repo, "vm1", pin.ID, func(ctx context.Context, _ keep.Pin) error {
		if err := repo.Unpin("vm1", pin.ID); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Minute):
			t.Error("it goes on without the pin")
			return nil
		}
	})
	if err != nil {
		t.Error(err)
	}
}

// A point of another identity, as after a rollback of the repository, is not the one that was pinned.
func TestCheckPinned(t *testing.T) {
	pin := keep.Pin{ID: "1", Point: "check2", Identity: "0123456789abcdef"}
	for _, tt := range []struct {
		m     manifest.Manifest
		pin   keep.Pin
		right bool
	}{
		{manifest.Manifest{ID: "check2", Identity: pin.Identity}, pin, true},
		{manifest.Manifest{ID: "check2", Identity: "fedcba9876543210"}, pin, false},
		{manifest.Manifest{ID: "check2"}, pin, false},
		{manifest.Manifest{ID: "check3", Identity: pin.Identity}, pin, false},
		{manifest.Manifest{ID: "check3"}, keep.Pin{}, true}, // none is asked for
	} {
		if err := checkPinned(tt.pin, tt.m); (err == nil) != tt.right || err != nil && !fail.Is(err, fail.Damaged) {
			t.Errorf("%+v: %v", tt.m, err)
		}
	}
}

// A pin that cannot be read is there: its domain goes on.
func TestDamagedPinIsThere(t *testing.T) {
	repo, err := repository.Create(filepath.Join(t.TempDir(), "repo"))
	if err != nil {
		t.Fatal(err)
	}
	dir := repo.DomainDir("vm1")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	pin, err := keep.AddPin(dir, manifest.Manifest{ID: "check1", Identity: manifest.NewIdentity()}, "test", nil)
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*", pin.ID+"*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("the pin is in %q, %v", files, err)
	}
	if err := os.WriteFile(files[0], []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, there, err := findPin(repo, "vm1", pin.ID); !there || err != nil {
		t.Errorf("damaged: there is %v, error %v", there, err)
	}
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	if _, there, err := findPin(repo, "vm1", pin.ID); there || err != nil {
		t.Errorf("removed: there is %v, error %v", there, err)
	}
}
