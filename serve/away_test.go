package serve

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/keep"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

// What is served as long as a pin is there goes on while the repository is away, and ends when the pin
// is gone.
func TestRepositoryAway(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "repo")
	repo, err := repository.Create(dir)
	if err := errors.Join(err, os.Mkdir(filepath.Join(dir, "vm1"), 0o700)); err != nil {
		t.Fatal(err)
	}
	pin, err := keep.AddPin(filepath.Join(dir, "vm1"), manifest.Manifest{ID: "check1", Identity: manifest.NewIdentity()}, "test", nil)
	if err != nil {
		t.Fatal(err)
	}
	ended := panics.Go(func() error {
		return whilePinned(t.Context(), repo, "vm1", pin.ID, func(ctx context.Context, _ keep.Pin) error {
			<-ctx.Done()
			return context.Cause(ctx)
		})
	})
	time.Sleep(lookForPin / 4)
	if err := errors.Join(os.Rename(dir, dir+"2"), os.Mkdir(dir, 0o700)); err != nil { // an empty mountpoint
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		t.Fatalf("ended without the repository: %v", err)
	case <-time.After(2 * lookForPin):
	}
	if err := errors.Join(os.Remove(dir), os.Rename(dir+"2", dir), repo.Unpin("vm1", pin.ID)); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * lookForPin):
		t.Error("it goes on without the pin")
	}
}
