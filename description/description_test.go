package description

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
)

func mustCreate(t *testing.T, dir string) Description {
	t.Helper()
	isNew, err := Create(dir)
	if err != nil || !isNew {
		t.Fatalf("new: %v, %v", isNew, err)
	}
	d, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Create leaves what is there.
func TestCreate(t *testing.T) {
	dir := t.TempDir()
	d := mustCreate(t, dir)
	if d.Format != manifest.Format || !manifest.ValidUUID(d.ID) || PlaceText(d.Place) == "" {
		t.Errorf("made %+v", d)
	}
	if isNew, err := Create(dir); isNew || err != nil {
		t.Errorf("again: %v, %v", isNew, err)
	}
	if again, err := Read(dir); err != nil || again.ID != d.ID {
		t.Errorf("read again: %+v, %v", again, err)
	}
}

// One changed byte of repository.json would make another repository of it, to which no
// checkpoint belongs.
func TestEveryFlippedByteIsSeen(t *testing.T) {
	dir := t.TempDir()
	d := mustCreate(t, dir)
	path := filepath.Join(dir, manifest.DescriptionName)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write := func(data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for at := range whole {
		torn := bytes.Clone(whole)
		torn[at] ^= 1
		write(torn)
		again, err := Read(dir)
		if err == nil && (again.ID != d.ID || at < len(whole)-digest.TailLength) || err != nil && !fail.Is(err, fail.Damaged) {
			t.Errorf("byte %d: %+v, %v", at, again, err)
		}
	}
	// As docs/format.md has it for who has lost the file.
	write([]byte(`{"format": 1, "id": "` + d.ID + `", "created": "2026-11-25T00:00:00Z"}`))
	if again, err := Read(dir); err != nil || again.ID != d.ID {
		t.Errorf("written by hand: %v", err)
	}
}

// Changes at the same time undo none of one another, and leave nothing beside the file.
func TestChangesBesideOneAnother(t *testing.T) {
	dir := t.TempDir()
	mustCreate(t, dir)
	var all sync.WaitGroup
	const changes = 20
	for range changes {
		all.Go(func() {
			if err := Change(dir, func(d *Description) { d.FormerIDs = append(d.FormerIDs, NewID()) }); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if d, err := Read(dir); err != nil || len(d.FormerIDs) != changes {
		t.Errorf("%d changes, %v", len(d.FormerIDs), err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left beside repository.json: %v, %v", entries, err)
	}
	path := filepath.Join(dir, manifest.DescriptionName)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := Change(dir, func(*Description) {}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
}
