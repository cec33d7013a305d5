package restore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/repository"
)

func hiddenChain(t *testing.T) (*repository.Repository, *repository.Lock, []byte) {
	t.Helper()
	repo, content := chainOf(t, 4, 8<<20, func(link int) []int64 { return []int64{int64(link) * 2 * cluster, 20 * cluster} })
	lock, err := repo.Lock("vm1")
	must(t, err)
	t.Cleanup(func() { _ = lock.Unlock() })
	return repo, lock, content
}

// A point is restored with the images of the hidden points below it.
func TestRestoreOverHiddenPoints(t *testing.T) {
	repo, lock, content := hiddenChain(t)
	must(t, errors.Join(lock.Hide("check1", "policy"), lock.Hide("check3", "policy")))
	if _, err := restored(t, repo, content); err != nil {
		t.Error(err)
	}
	path := filepath.Join(repo.PointDir("vm1", "check3"), "vda.qcow2")
	data, err := os.ReadFile(path)
	must(t, err)
	data[len(data)-cluster] ^= 1
	must(t, os.WriteFile(path, data, 0o600))
	var damaged *damage.Error
	if _, err := restored(t, repo, content); !errors.As(err, &damaged) || !damaged.Has("check3") {
		t.Errorf("over a damaged hidden point: %v", err)
	}
}

// A point that is hidden is not restored; the error says how to bring it back.
func TestRestoreOfAHiddenPoint(t *testing.T) {
	repo, lock, content := hiddenChain(t)
	must(t, lock.Hide("check4", "policy"))
	dir := filepath.Join(t.TempDir(), "out")
	_, err := Run(context.Background(), repo, Request{Domain: "vm1", At: "check4", Dir: dir, Format: Raw})
	if !fail.Is(err, fail.NotFound) || !strings.Contains(fail.HintOf(err), "virtbackup prune vm1 --undo check4") {
		t.Errorf("got %v, hint %q", err, fail.HintOf(err))
	}
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory was made: %v", err)
	}
	must(t, lock.Unhide("check4"))
	if _, err := restored(t, repo, content); err != nil {
		t.Error(err)
	}
}
