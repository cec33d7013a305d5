package repository

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/virtbackup/virtbackup/description"
	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/internal/fileid"
	"github.com/virtbackup/virtbackup/manifest"
)

// locked is a new repository with the lock of vm1.
func locked(t *testing.T) *Lock {
	t.Helper()
	r, err := Create(filepath.Join(t.TempDir(), "repo"))
	if err != nil {
		t.Fatal(err)
	}
	return lockOf(t, r)
}

func lockOf(t *testing.T, r *Repository) *Lock {
	t.Helper()
	l, err := r.Lock("vm1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Unlock() })
	return l
}

func issue(t *testing.T, l *Lock, point string) instants.Instant {
	t.Helper()
	i, err := l.Issue(instants.Instant{Point: point, Identity: manifest.NewIdentity(), Checkpoint: true})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func next(t *testing.T, l *Lock) int {
	t.Helper()
	n, err := l.NextNumber()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A number is never given twice: not that of an identity that is forgotten, of a point
// that cannot be read, or of one that was never finished.
func TestNextNumberOfDomain(t *testing.T) {
	l := locked(t)
	if n := next(t, l); n != 1 {
		t.Errorf("the first number is %d", n)
	}
	if err := l.DropInstant(issue(t, l, "check4").Identity); err != nil {
		t.Fatal(err)
	}
	if n := next(t, l); n != 5 {
		t.Errorf("after check4, which is forgotten: %d", n)
	}
	for _, point := range []string{"check4", "copy3", "check", "check5x"} {
		if _, err := l.Issue(instants.Instant{Point: point, Identity: manifest.NewIdentity()}); err == nil {
			t.Errorf("%s was issued", point)
		}
	}
	if _, err := l.Issue(instants.Instant{Point: "check5", Identity: "check5"}); err == nil {
		t.Error("an identity that is none was issued")
	}
	for _, name := range []string{"diff7", ".partial-check9", "snapshot33", "check11x"} {
		if err := os.Mkdir(filepath.Join(l.repo.domainDir("vm1"), name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if n := next(t, l); n != 10 {
		t.Errorf("the next number is %d, want 10", n)
	}
}

func TestInstants(t *testing.T) {
	l := locked(t)
	one, two := issue(t, l, "check1"), issue(t, l, "check2")
	if err := l.SetInstantState(two.Identity, instants.Retired); err != nil {
		t.Fatal(err)
	}
	is, damage, err := l.Instants()
	if err != nil || damage != nil || len(is.Issued) != 2 || is.Highest != 2 {
		t.Fatalf("%+v, %v, %v", is, damage, err)
	}
	got, ok := is.Find(two.Identity)
	if !ok || got.State != instants.Retired || got.Place == "" || !got.Process.Alive() || got.CheckpointName() != "check2."+two.Identity {
		t.Errorf("%+v", got)
	}
	if _, ok := is.Find(""); ok {
		t.Error("no identity is one")
	}
	ledger, err := l.repo.Ledger("vm1")
	if err != nil || ledger.Sealed(one) || ledger.Inherited(one) {
		t.Errorf("check1 is sealed or inherited: %v", err)
	}
	// A point of the number is there, of another identity: that seals nothing.
	makePoint(t, l, point{id: "check1", kind: manifest.KindFull, targets: []string{"vda"}})
	sealed := one
	sealed.Identity = testIdentity
	if ledger.Sealed(one) || !ledger.Sealed(sealed) {
		t.Errorf("sealed: check1 of another identity %v, of its own %v", ledger.Sealed(one), ledger.Sealed(sealed))
	}
}

// What is damaged is as good as none, and is said.
func TestInstantsDamaged(t *testing.T) {
	l := locked(t)
	issue(t, l, "check1")
	path := filepath.Join(l.repo.domainDir("vm1"), instants.FileName)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := range whole {
		torn := append([]byte{}, whole...)
		torn[at] ^= 1
		if err := os.WriteFile(path, torn, 0o600); err != nil {
			t.Fatal(err)
		}
		is, damage, err := l.Instants()
		if err != nil || damage == nil || len(is.Issued) > 0 {
			t.Fatalf("byte %d flipped: %+v, %v, %v", at, is, damage, err)
		}
	}
	if err := os.WriteFile(path, whole[:len(whole)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, damage, _ := l.Instants(); damage == nil || !strings.Contains(damage.Error(), "instants.json of domain vm1 is damaged") {
		t.Errorf("cut: %v", damage)
	}
	if ledger, err := l.repo.Ledger("vm1"); err != nil || len(ledger.Issued) > 0 {
		t.Errorf("the ledger: %v", err)
	}
	issue(t, l, "check2") // replaces it
	if is, damage, err := l.Instants(); err != nil || damage != nil || len(is.Issued) != 1 {
		t.Errorf("%+v, %v, %v", is, damage, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, damage, _ := l.Instants(); damage == nil {
		t.Error("a directory in its place is no damage")
	}
}

// A copy knows the identities of the original, and that they are not its own.
func TestPlace(t *testing.T) {
	l := locked(t)
	one := issue(t, l, "check1")
	if moved, err := l.repo.NotePlace(); moved || err != nil {
		t.Errorf("where it was made: %v, %v", moved, err)
	}
	dir := filepath.Join(t.TempDir(), "copy")
	if out, err := exec.Command("cp", "-a", l.repo.Dir(), dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for round, want := range []bool{true, false} {
		if moved, err := r.NotePlace(); moved != want || err != nil {
			t.Errorf("the copy, time %d: %v, %v", round, moved, err)
		}
	}
	copied := lockOf(t, r)
	two := issue(t, copied, "check2")
	for repo, want := range map[*Repository][2]bool{l.repo: {false, true}, r: {true, false}} {
		ledger, err := repo.Ledger("vm1")
		if err != nil {
			t.Fatal(err)
		}
		_, knows := ledger.Find(two.Identity)
		if got := [2]bool{ledger.Inherited(one), ledger.Inherited(two)}; got != want || knows != (repo == r) {
			t.Errorf("%s: inherited %v, want %v; knows the second: %v", repo.Dir(), got, want, knows)
		}
	}
	adopted, err := NewID(dir)
	if err != nil || adopted.ID() == r.ID() || fmt.Sprint(adopted.IDs()) != fmt.Sprint([]string{adopted.ID(), r.ID()}) {
		t.Errorf("adopted: %v, %v", adopted.IDs(), err)
	}
	moved := filepath.Join(filepath.Dir(l.repo.Dir()), "moved")
	if err := os.Rename(l.repo.Dir(), moved); err != nil {
		t.Fatal(err)
	}
	if r, err = Open(moved); err != nil {
		t.Fatal(err)
	}
	if was, err := r.NotePlace(); was || err != nil {
		t.Errorf("renamed: %v, %v", was, err)
	}
}

// Whatever comes side by side, no change of repository.json undoes another.
func TestDescriptionChangesSideBySide(t *testing.T) {
	dir := newRepository(t).Dir()
	const adoptions = 8
	var all errgroup.Group
	for range adoptions {
		copied := &Repository{dir: dir, place: &fileid.ID{Inode: rand.Uint64()}}
		all.Go(func() error { _, err := NewID(dir); return err })
		all.Go(func() error { _, err := copied.NotePlace(); return err })
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	r, err := Open(dir)
	if err != nil || len(r.IDs()) != adoptions+1 {
		t.Errorf("%d ids, want %d: %v", len(r.IDs()), adoptions+1, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left beside repository.json: %v, %v", entries, err)
	}
}

// A repository of format 1 has no place; it gets one without a word.
func TestPlaceOfFormat1(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, manifest.DescriptionName)
	if err := os.WriteFile(path, []byte(`{"format":1,"id":"`+testRepository+`","created":"2026-11-01T00:00:00Z"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if moved, err := r.NotePlace(); moved || err != nil {
		t.Errorf("%v, %v", moved, err)
	}
	d, err := description.Read(dir)
	if err != nil || d.Format != manifest.Format || d.Place == nil || d.ID != testRepository {
		t.Errorf("%+v, %v", d, err)
	}
}

// The directory that a failed run made goes, unless an identity is left in it.
func TestUnlockWithInstants(t *testing.T) {
	l := locked(t)
	one := issue(t, l, "check1")
	dir := l.repo.domainDir("vm1")
	if err := l.Unlock(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, instants.FileName)); err != nil {
		t.Errorf("an identity is gone with the lock: %v", err)
	}
	l, err := l.repo.Lock("vm1")
	if err != nil {
		t.Fatal(err)
	}
	l.made = true
	if err := errors.Join(l.DropInstant(one.Identity), l.Unlock()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory is there: %v", err)
	}
}
