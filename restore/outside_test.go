package restore

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/repository"
)

// Nothing is restored into a repository, whichever way leads there, and nothing is
// made there.
func TestRestoreIntoARepository(t *testing.T) {
	repo, _ := chainOf(t, 1, 1<<20, func(int) []int64 { return []int64{0} })
	other, err := repository.Create(filepath.Join(t.TempDir(), "other"))
	must(t, err)
	links := t.TempDir()
	must(t, os.Symlink(repo.Dir(), filepath.Join(links, "repo")))
	must(t, os.Symlink(filepath.Join(repo.Dir(), "vm1"), filepath.Join(links, "vm1")))
	must(t, os.Symlink(filepath.Join(repo.Dir(), "new"), filepath.Join(links, "nowhere")))
	must(t, os.MkdirAll(filepath.Join(repo.Dir(), "lost+found"), 0o700))
	t.Chdir(filepath.Join(repo.Dir(), "vm1"))
	for _, dir := range []string{repo.Dir(), repo.Dir() + "/new", repo.Dir() + "/vm1", repo.Dir() + "/vm1/new/er", repo.Dir() + "/vm1/check1",
		links + "/repo/new", links + "/vm1/new", other.Dir() + "/new", "new", ".", links + "/../" + filepath.Base(links) + "/vm1/new"} {
		before, err := os.ReadDir(repo.Dir() + "/vm1")
		must(t, err)
		if _, err := Run(context.Background(), repo, Request{Domain: "vm1", Dir: dir}); !fail.Is(err, fail.Usage) {
			t.Errorf("%s: got %v, want fail.Usage", dir, err)
		}
		if after, _ := os.ReadDir(repo.Dir() + "/vm1"); len(after) != len(before) {
			t.Errorf("%s: something was made", dir)
		}
	}
	if _, err := Run(context.Background(), repo, Request{Domain: "vm1", Dir: links + "/nowhere"}); err == nil {
		t.Error("a link to a new directory in the repository is followed")
	}
	if _, err := Run(context.Background(), repo, Request{Domain: "vm1", Dir: filepath.Join(repo.Dir(), "../beside/it")}); err != nil {
		t.Errorf("beside a repository: %v", err)
	}
}

// ".." behind a symbolic link goes up from where the link leads, for the checks and for
// what is written.
func TestRestoreToWhatIsBesideALink(t *testing.T) {
	repo, _ := chainOf(t, 1, 1<<20, func(int) []int64 { return []int64{0} })
	links, outside := t.TempDir(), t.TempDir()
	must(t, os.Mkdir(filepath.Join(outside, "sub"), 0o700))
	must(t, os.Symlink(filepath.Join(repo.Dir(), "vm1"), filepath.Join(links, "vm1")))
	must(t, os.Symlink(filepath.Join(outside, "sub"), filepath.Join(links, "sub")))
	must(t, os.Mkdir(filepath.Join(links, "full"), 0o700))
	must(t, os.WriteFile(filepath.Join(links, "full", "something"), nil, 0o600))
	for _, dir := range []string{links + "/vm1/../out", links + "/vm1/../full"} {
		if _, err := Run(context.Background(), repo, Request{Domain: "vm1", Dir: dir}); !fail.Is(err, fail.Usage) {
			t.Errorf("%s: got %v, want fail.Usage", dir, err)
		}
		if _, err := os.Stat(filepath.Join(repo.Dir(), filepath.Base(dir))); err == nil {
			t.Errorf("%s: a directory was made in the repository", dir)
		}
	}
	if entries, err := os.ReadDir(filepath.Join(links, "full")); err != nil || len(entries) != 1 {
		t.Errorf("restored into a directory that is not empty: %v, %v", entries, err)
	}
	if _, err := Run(context.Background(), repo, Request{Domain: "vm1", Dir: links + "/absent/../out"}); err == nil {
		t.Error(`".." behind what does not exist is followed`)
	}
	result, err := Run(context.Background(), repo, Request{Domain: "vm1", Dir: links + "/sub/../out/"})
	if want := filepath.Join(outside, "out"); err != nil || result.Dir != want || filepath.Dir(result.Disks[0].Image) != want {
		t.Errorf("got %+v, %v, want it in %s", result, err, want)
	}
}
