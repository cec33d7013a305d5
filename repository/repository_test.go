package repository

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/virtbackup/virtbackup/description"
	"github.com/virtbackup/virtbackup/manifest"
)

func TestCreateMakesParentsAndOpensAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b", "repo")
	r, err := Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !manifest.ValidUUID(r.ID()) {
		t.Errorf("id %q is not a UUID", r.ID())
	}
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, want 0700: backups hold secrets", info.Mode())
	}
	for _, open := range []func(string) (*Repository, error){Create, Open} {
		again, err := open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if again.ID() != r.ID() {
			t.Errorf("opened again: id %s, want %s", again.ID(), r.ID())
		}
	}
}

func TestCreateRefusesOtherContent(t *testing.T) {
	dir := t.TempDir()
	mustWrite(t, filepath.Join(dir, "photo.jpg"), "x")
	_, err := Create(dir)
	if !errors.Is(err, ErrNotRepository) || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %v, want ErrNotRepository with the path", err)
	}
	if _, err := os.Stat(filepath.Join(dir, manifest.DescriptionName)); err == nil {
		t.Error("repository.json was written all the same")
	}
}

func TestCreateAcceptsAFreshFileSystemAndADeadCreate(t *testing.T) {
	dir := t.TempDir()
	mustMkdir(t, filepath.Join(dir, manifest.LostFound))
	mustWrite(t, filepath.Join(dir, description.TemporaryPrefix+"123"), `{"form`)
	r, err := Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	if names, err := r.Domains(); err != nil || len(names) != 0 {
		t.Errorf("domains %q, %v, want none", names, err)
	}
}

func TestConcurrentCreatesAgree(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "repo")
	ids := make([]string, 8)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			r, err := Create(dir)
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = r.ID()
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("ids differ: %q", ids)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	tests := []struct {
		name, content string
		want          error
		text          string
	}{
		{"absent", "", ErrNotRepository, "not a virtbackup repository"},
		{"newer", `{"format":3,"id":"x"}`, manifest.ErrNewerFormat, "format 3, this one reads up to 2"},
		{"no format", `{}`, nil, "unknown format 0"},
		{"no JSON", `{"format":`, nil, "parse"},
		{"no UUID", `{"format":1,"id":"../x"}`, nil, "not a UUID"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if tt.content != "" {
				mustWrite(t, filepath.Join(dir, manifest.DescriptionName), tt.content)
			}
			_, err := Open(dir)
			if err == nil || !strings.Contains(err.Error(), tt.text) || !strings.Contains(err.Error(), dir) {
				t.Errorf("got %v, want %q with the path", err, tt.text)
			}
			if tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
	_, err := Open(filepath.Join(t.TempDir(), "absent"))
	if !errors.Is(err, ErrNotRepository) || !errors.Is(err, ErrAbsent) {
		t.Errorf("absent directory: got %v, want ErrNotRepository and ErrAbsent", err)
	}
}

// A repository that a failed run has made goes again, with the directories
// above it that it made, and nothing else does.
func TestRemoveIfUnused(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "a", "b")
	r := mustCreate(t, dir)
	again := mustCreate(t, dir)
	if err := again.RemoveIfUnused(); err != nil || r.check() != nil {
		t.Errorf("one that was there: %v, %v; want no error and the repository", err, r.check())
	}
	lock, err := r.Lock("vm1")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.RemoveIfUnused(); err != nil || r.check() != nil {
		t.Errorf("one in use: %v, %v; want no error and the repository", err, r.check())
	}
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}
	if err := r.RemoveIfUnused(); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(parent); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
	if _, err := again.Lock("vm1"); err == nil {
		t.Error("a domain of a removed repository was locked")
	}
}

func TestRemoveIfUnusedKeepsTheDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := mustCreate(t, dir).RemoveIfUnused(); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("got %v, %v, want the empty directory", entries, err)
	}
}

func TestLockSeesARepositoryMadeAnew(t *testing.T) {
	dir := t.TempDir()
	old, first := mustCreate(t, dir), mustCreate(t, dir)
	if err := old.RemoveIfUnused(); err != nil {
		t.Fatal(err)
	}
	mustCreate(t, dir)
	if _, err := first.Lock("vm1"); err == nil || !strings.Contains(err.Error(), "made anew") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "vm1")); err == nil {
		t.Error("the domain's directory is left")
	}
}

func mustCreate(t *testing.T, dir string) *Repository {
	t.Helper()
	r, err := Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustWrite(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func mustMkdir(t testing.TB, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o700); err != nil {
		t.Fatal(err)
	}
}
