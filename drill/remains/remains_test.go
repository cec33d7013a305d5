package remains

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/drill/record"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/internal/filelock"
	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/repository"
)

// noDomains is a host without any.
type noDomains struct{}

func (noDomains) DomainByUUID(string) (*hypervisor.Domain, error) { return nil, hypervisor.ErrNoDomain }

func newRepository(t *testing.T) *repository.Repository {
	t.Helper()
	repo, err := repository.Create(filepath.Join(t.TempDir(), "repo"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(repo.DomainDir("vm1"), 0o700); err != nil {
		t.Fatal(err)
	}
	return repo
}

// begin begins a drill, with its directory.
func begin(t *testing.T, repo *repository.Repository) *Running {
	t.Helper()
	r, err := New(repo, t.TempDir()).Begin(repo, "vm1")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.MakeDir(-1, -1); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.Dir(), "vda.qcow2"), []byte("overlay"), 0o600); err != nil {
		t.Fatal(err)
	}
	return r
}

// die closes the locks, as the kernel does when a process is killed.
func die(t *testing.T, files ...*os.File) {
	t.Helper()
	for _, f := range files {
		if f == nil {
			continue
		}
		if err := filelock.Close(f); err != nil {
			t.Fatal(err)
		}
	}
}

func isThere(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func clean(t *testing.T, repo *repository.Repository, look bool) Found {
	t.Helper()
	found, err := Clean(repo, "vm1", noDomains{}, look)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// What ends by itself leaves nothing, not even the directory of the records.
func TestEnd(t *testing.T) {
	repo := newRepository(t)
	r := begin(t, repo)
	if err := r.End(noDomains{}); err != nil {
		t.Fatal(err)
	}
	if isThere(r.Dir()) || isThere(r.path) || isThere(filepath.Join(repo.DomainDir("vm1"), record.DirName)) {
		t.Error("something is left")
	}
}

// The record that a killed drill has begun to write goes with its note; others are other drills'.
func TestUnfinishedRecord(t *testing.T) {
	repo := newRepository(t)
	r, runs := begin(t, repo), begin(t, repo)
	unfinished, other := filepath.Join(filepath.Dir(r.path), record.Temporary(r.ID)), filepath.Join(filepath.Dir(r.path), record.Temporary(runs.ID))
	for _, path := range []string{unfinished, other} {
		if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	die(t, r.note, r.alive)
	clean(t, repo, false)
	if isThere(unfinished) || isThere(r.path) || !isThere(other) {
		t.Errorf("the unfinished record is there: %v, its note: %v, that of a drill that runs: %v", isThere(unfinished), isThere(r.path), isThere(other))
	}
	if err := runs.End(noDomains{}); err != nil || isThere(other) {
		t.Errorf("at the end: %v", err)
	}
}

// A drill that runs is left alone, whichever of its two locks is seen: a copy of the repository has
// none on its note.
func TestAlive(t *testing.T) {
	repo := newRepository(t)
	r := begin(t, repo)
	if found := clean(t, repo, false); len(found.Removed)+len(found.Left) > 0 || !isThere(r.Dir()) || !Any(repo, "vm1") {
		t.Errorf("%+v", found)
	}
	die(t, r.note)
	if found := clean(t, repo, false); len(found.Removed)+len(found.Left) > 0 || !isThere(r.Dir()) {
		t.Errorf("with the lock of its directory alone: %+v", found)
	}
	die(t, r.alive)
	if found := clean(t, repo, true); len(found.Removed) != 1 || !isThere(r.Dir()) {
		t.Errorf("a look: %+v", found)
	}
	if found := clean(t, repo, false); len(found.Removed) != 1 || isThere(r.Dir()) || isThere(r.path) || Any(repo, "vm1") {
		t.Errorf("after its death: %+v", found)
	}
}

// Killed at any step, a drill leaves what the next one removes.
func TestKilledEarly(t *testing.T) {
	repo := newRepository(t)
	n := New(repo, t.TempDir())
	r, err := n.Begin(repo, "vm1") // before the directory
	if err != nil {
		t.Fatal(err)
	}
	die(t, r.note)
	if found := clean(t, repo, false); len(found.Removed) != 1 || isThere(r.path) {
		t.Errorf("%+v", found)
	}
	dir, err := record.MakeDir(repo.DomainDir("vm1"))
	if err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, notePrefix+n.ID) // before its content
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if found := clean(t, repo, false); len(found.Left) > 0 || isThere(empty) {
		t.Errorf("an empty note: %+v", found)
	}
}

// Notes that are not ours to act on remove nothing: of another host, damaged, with paths that lead
// elsewhere, or copied from another repository.
func TestForeignNotes(t *testing.T) {
	repo := newRepository(t)
	victim := t.TempDir()
	dir, err := record.MakeDir(repo.DomainDir("vm1"))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Note){
		"another host":       func(n *Note) { n.Host = "elsewhere" },
		"another id":         func(n *Note) { n.ID = "0123456789abcdef" },
		"a UUID with a path": func(n *Note) { n.UUID = "../../../../var/tmp/11111111-2222-33" },
		"a relative place":   func(n *Note) { n.Parent = "x" },
		"another repository": func(n *Note) { n.Repository = "other" },
	} {
		n := New(repo, victim)
		id := n.ID
		if err := os.MkdirAll(n.Dir(), 0o700); err != nil {
			t.Fatal(err)
		}
		path := n.Dir()
		change(&n)
		data, err := digest.EncodeJSON(n)
		if err != nil {
			t.Fatal(err)
		}
		note := filepath.Join(dir, notePrefix+id)
		if err := os.WriteFile(note, data, 0o600); err != nil {
			t.Fatal(err)
		}
		found := clean(t, repo, false)
		if len(found.Removed) > 0 || !isThere(path) {
			t.Errorf("%s: %+v", name, found)
		}
		if gone := name == "another repository"; isThere(note) == gone || gone != (len(found.Left) == 0) {
			t.Errorf("%s: the note is there: %v, left %v", name, isThere(note), found.Left)
		}
		_ = os.Remove(note)
	}
}

func TestUUID(t *testing.T) {
	if a, b := NewUUID(), NewUUID(); a == b || a[14] != '4' || !strings.ContainsRune("89ab", rune(a[19])) || len(a) != 36 {
		t.Errorf("%s, %s", a, b)
	}
}

// The note of a drill that ends meanwhile is gone before it is looked at: nothing is wrong.
func TestCleanGone(t *testing.T) {
	repo := newRepository(t)
	var found Found
	path := filepath.Join(repo.DomainDir("vm1"), record.DirName, notePrefix+"0123456789abcdef")
	if err := found.clean(path, "0123456789abcdef", repo.ID(), noDomains{}, false); err != nil || len(found.Removed)+len(found.Left) > 0 {
		t.Errorf("%+v, %v", found, err)
	}
}

// Drills of a domain that begin and end at the same time are no errors of one another, not even where
// there is no record yet and each takes the directory away.
func TestSideBySide(t *testing.T) {
	repo := newRepository(t)
	parent := t.TempDir()
	for range 2 {
		var all panics.Group
		for range 3 {
			all.Go(func() error {
				for range 15 {
					if _, err := Clean(repo, "vm1", noDomains{}, false); err != nil {
						return err
					}
					r, err := New(repo, parent).Begin(repo, "vm1")
					if err != nil {
						return err
					}
					if err := r.MakeDir(-1, -1); err != nil {
						return err
					}
					if err := r.End(noDomains{}); err != nil {
						return err
					}
				}
				return nil
			})
		}
		if err := all.Wait(); err != nil {
			t.Error(err)
		}
	}
}
