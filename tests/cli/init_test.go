package cli

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// madeRepository is what init --json prints.
type madeRepository struct {
	Repository, ID string
	Made           bool
	RootFileSystem bool `json:"root_file_system"`
}

// init makes a repository, says where and on which file system, and leaves an existing one
// alone.
func TestInit(t *testing.T) {
	t.Parallel()
	dir := testdomain.TempDir(t)
	named, standard := filepath.Join(dir, "a", "repo"), filepath.Join(dir, "b")
	p := testdomain.Program{Env: []string{"VIRTBACKUP_REPO=" + standard}}
	onRoot := ""
	if isOnRoot(t, dir) {
		onRoot = ", on the root file system"
	}
	testsite.WantLine(t, p.Must(t, nil, "init", named).Stdout, `^made a repository in `+named+onRoot+` \(\S+\)$`)
	testsite.WantLine(t, p.Must(t, nil, "init", named).Stdout, `^there is a repository in `+named+` already \(\S+\)$`)
	first := decode[madeRepository](t, p.Must(t, nil, "init", "--json"))
	again := decode[madeRepository](t, p.Must(t, nil, "--json", "init", standard))
	if !first.Made || first.Repository != standard || first.RootFileSystem != (onRoot != "") || again.Made || again.ID != first.ID {
		t.Errorf("made %+v, then %+v", first, again)
	}
	mounted := testsite.Mount(t, "1m")
	testsite.WantLine(t, p.Must(t, nil, "init", mounted).Stdout, `^made a repository in `+mounted+` \(\S+\)$`)
}

func isOnRoot(t *testing.T, dir string) bool {
	t.Helper()
	return testdomain.Tool(t, "stat", "-c", "%d", dir) == testdomain.Tool(t, "stat", "-c", "%d", "/")
}

// auto, inc and diff make no repository: its file system may just not be mounted. full and copy
// do, and say once where it is.
func TestNotMounted(t *testing.T) {
	t.Parallel()
	s := testsite.Small(t)
	dir := testdomain.TempDir(t)
	if !isOnRoot(t, dir) {
		t.Fatalf("%s is not on the root file system: this test needs it there", dir)
	}
	for _, kind := range []string{"auto", "inc", "diff"} {
		for _, repo := range []string{dir, filepath.Join(dir, "new")} { // a mount point, and below one
			s.Rejects(testsite.Reject(2, "not a virtbackup repository", "is its file system mounted, and is --repo right? virtbackup init DIR"),
				[]string{kind, s.Name, "--repo", repo}, dir)
		}
	}
	for _, kind := range []string{"full", "copy"} {
		for _, repo := range []string{filepath.Join(dir, kind), filepath.Join(dir, kind+"-empty")} {
			if filepath.Base(repo) != kind {
				if err := os.Mkdir(repo, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			s.Repo, s.Program.Env = repo, []string{"VIRTBACKUP_REPO=" + repo}
			s.Points = nil
			words := "made a repository in " + repo + ", on the root file system: if another one belongs there, mount it and run virtbackup init " + repo
			first := s.BackUp(3, kind)
			testsite.WantSaid(t, first.Warnings, words)
			testsite.WantSaid(t, first.Point.Warnings, words)
			s.BackUp(0, kind)
			s.Check()
			release(s)
		}
	}
	mounted := testsite.Mount(t, "16m")
	for _, kind := range []string{"full", "copy"} { // the mount point itself, and a directory below
		s.Repo = map[string]string{"full": mounted, "copy": filepath.Join(mounted, "below")}[kind]
		s.Program.Env = []string{"VIRTBACKUP_REPO=" + s.Repo}
		s.Points = nil
		s.BackUp(0, kind)
		s.Check()
		release(s)
	}
}

// release deletes the domain's checkpoints, for another repository.
func release(s *testsite.Site) {
	s.T.Helper()
	for _, c := range s.Checkpoints() {
		testdomain.Virsh(s.T, "checkpoint-delete", s.Name, c)
	}
}

// A run that fails removes the repository that it has made.
func TestFailedFullLeavesNoRepository(t *testing.T) {
	t.Parallel()
	s := testsite.Small(t)
	dir := testdomain.TempDir(t)
	s.Rejects(testsite.Reject(6, `no disk "vdx"`, "vda"), []string{"full", s.Name, "--disk", "vdx", "--repo", filepath.Join(dir, "new")}, dir)
	if _, err := repository.Open(filepath.Join(dir, "new")); err == nil {
		t.Error("the repository is left")
	}
}
