package repository

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/diskimage"
	"github.com/virtbackup/virtbackup/manifest"
)

// chainOfThree makes check1 <- check2 <- diff3 and copy10, each with vda.
func chainOfThree(t testing.TB) *Repository {
	t.Helper()
	r := newRepository(t)
	l := mustLock(t, r, "vm1")
	for _, pt := range []point{
		{id: "copy10", kind: manifest.KindCopy}, // first on the clock: the order is that of the numbers
		{id: "check1", kind: manifest.KindFull},
		{id: "check2", kind: manifest.KindInc, parent: "check1"},
		{id: "diff3", kind: manifest.KindDiff, parent: "check2"},
	} {
		pt.targets = []string{"vda"}
		makePoint(t, l, pt)
	}
	if err := l.Unlock(); err != nil {
		t.Fatal(err)
	}
	return r
}

// copyOf gives a test that spoils its repository one of its own; copying needs
// none of the fsyncs of making it.
func copyOf(t testing.TB, r *Repository) *Repository {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "repo")
	if err := os.CopyFS(dir, os.DirFS(r.Dir())); err != nil {
		t.Fatal(err)
	}
	c, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func ids(points []manifest.Manifest) string {
	var s []string
	for _, m := range points {
		s = append(s, m.ID)
	}
	return strings.Join(s, " ")
}

func TestPointsInOrderOfNumbers(t *testing.T) {
	r := chainOfThree(t)
	points, err := pointsOf(r, "vm1")
	if err != nil || ids(points) != "check1 check2 diff3 copy10" {
		t.Errorf("points %s, %v", ids(points), err)
	}
	if points, err := pointsOf(r, "absent"); err != nil || len(points) != 0 {
		t.Errorf("absent domain: %s, %v", ids(points), err)
	}
	if _, err := pointsOf(r, "../vm1"); err == nil {
		t.Error("a name that leads outside was read")
	}
}

func TestPointsShowsDamageBesideTheRest(t *testing.T) {
	manifestPath := func(r *Repository, id string) string { return filepath.Join(r.PointDir("vm1", id), manifest.FileName) }
	tests := map[string]struct {
		spoil func(t *testing.T, r *Repository) error
		id    string // listed as damaged
		want  string
		rest  string
	}{
		"manifest missing": {func(t *testing.T, r *Repository) error { return os.Remove(manifestPath(r, "check2")) },
			"check2", "no such file", "check1 diff3 copy10"},
		"manifest truncated": {func(t *testing.T, r *Repository) error { return os.Truncate(manifestPath(r, "check2"), 100) },
			"check2", "parse", "check1 diff3 copy10"},
		"manifest empty": {func(t *testing.T, r *Repository) error { return os.Truncate(manifestPath(r, "check1"), 0) },
			"check1", "parse", "check2 diff3 copy10"},
		"manifest edited": {func(t *testing.T, r *Repository) error {
			data, err := os.ReadFile(manifestPath(r, "check1"))
			if err != nil {
				return err
			}
			edited := strings.Replace(string(data), `"virtual_size": 1048576`, `"virtual_size": 1048575`, 1)
			return os.WriteFile(manifestPath(r, "check1"), []byte(edited), 0o600)
		}, "check1", "does not match its digest", "check2 diff3 copy10"},
		"directory renamed": {func(t *testing.T, r *Repository) error {
			return os.Rename(r.PointDir("vm1", "check2"), r.PointDir("vm1", "check7"))
		}, "check7", "that of check2", "check1 diff3 copy10"},
		"directory renamed to no id": {func(t *testing.T, r *Repository) error {
			return os.Rename(r.PointDir("vm1", "check2"), r.PointDir("vm1", "check2.old"))
		}, "check2.old", "not the id of a point", "check1 diff3 copy10"},
		"point of another domain": {func(t *testing.T, r *Repository) error {
			mustMkdir(t, filepath.Join(r.Dir(), "vm2"))
			return os.Rename(r.PointDir("vm1", "check1"), r.PointDir("vm2", "check1"))
		}, "", "", "check2 diff3 copy10"},
		"a file in place of a point": {func(t *testing.T, r *Repository) error {
			return os.WriteFile(r.PointDir("vm1", "check11"), nil, 0o600)
		}, "check11", "not a directory", "check1 check2 diff3 copy10"},
		"a link in place of a point": {func(t *testing.T, r *Repository) error {
			return os.Symlink(r.PointDir("vm1", "check1"), r.PointDir("vm1", "check11"))
		}, "check11", "not a directory", "check1 check2 diff3 copy10"},
		"a link in place of a manifest": {func(t *testing.T, r *Repository) error {
			return errors.Join(os.Remove(manifestPath(r, "check2")), os.Symlink(manifestPath(r, "check1"), manifestPath(r, "check2")))
		}, "check2", "symbolic link", "check1 diff3 copy10"},
		"leftovers and foreign files are no damage": {func(t *testing.T, r *Repository) error {
			mustMkdir(t, filepath.Join(r.Dir(), "vm1", ".partial-check11"))
			mustMkdir(t, filepath.Join(r.Dir(), "vm1", manifest.LostFound))
			return os.WriteFile(filepath.Join(r.Dir(), "vm1", "notes.txt"), nil, 0o600)
		}, "", "", "check1 check2 diff3 copy10"},
	}
	whole := chainOfThree(t)
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := copyOf(t, whole)
			if err := tt.spoil(t, r); err != nil {
				t.Fatal(err)
			}
			points, err := pointsOf(r, "vm1")
			if ids(points) != tt.rest {
				t.Errorf("points %s, want %s", ids(points), tt.rest)
			}
			var damaged *damage.Error
			if tt.id == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.As(err, &damaged) || len(damaged.Points) != 1 || damaged.Points[0].ID != tt.id {
				t.Fatalf("got %v, want damage of %s", err, tt.id)
			}
			if !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "vm1") {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestPointFromAnotherDomainIsDamage(t *testing.T) {
	r := chainOfThree(t)
	mustMkdir(t, filepath.Join(r.Dir(), "vm2"))
	if err := os.Rename(r.PointDir("vm1", "check1"), r.PointDir("vm2", "check1")); err != nil {
		t.Fatal(err)
	}
	_, err := pointsOf(r, "vm2")
	var damaged *damage.Error
	if !errors.As(err, &damaged) || !strings.Contains(err.Error(), "of domain vm1") {
		t.Errorf("got %v", err)
	}
}

func TestDamageErrorKeepsCauses(t *testing.T) {
	r := chainOfThree(t)
	if err := os.Remove(filepath.Join(r.PointDir("vm1", "check1"), manifest.FileName)); err != nil {
		t.Fatal(err)
	}
	if _, err := pointsOf(r, "vm1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want ErrNotExist inside", err)
	}
}

func TestPoint(t *testing.T) {
	r := chainOfThree(t)
	if m, err := r.Point("vm1", "diff3"); err != nil || m.Kind != manifest.KindDiff || m.Number() != 3 || m.IsBase() {
		t.Errorf("%+v, %v", m, err)
	}
	for _, id := range []string{"check9", "nonsense", "../vm1/check1", ""} {
		if _, err := r.Point("vm1", id); !errors.Is(err, manifest.ErrNoPoint) {
			t.Errorf("%q: got %v, want ErrNoPoint", id, err)
		}
	}
}

func TestOwner(t *testing.T) {
	r := chainOfThree(t)
	if uuid, err := r.Owner("vm1"); err != nil || uuid != testDomainUUID {
		t.Errorf("owner %q, %v", uuid, err)
	}
	for _, uuid := range []string{testDomainUUID, strings.ToUpper(testDomainUUID)} {
		if err := r.CheckOwner("vm1", uuid); err != nil {
			t.Error(err)
		}
	}
	var other *OtherDomainError
	if err := r.CheckOwner("vm1", testRepository); !errors.As(err, &other) ||
		*other != (OtherDomainError{Name: "vm1", Want: testRepository, Have: testDomainUUID}) {
		t.Errorf("got %v", err)
	}
	if err := r.CheckOwner("new", testRepository); err != nil {
		t.Errorf("a domain without points: %v", err)
	}
	for _, id := range []string{"check1", "check2", "diff3", "copy10"} {
		if err := os.Remove(filepath.Join(r.PointDir("vm1", id), manifest.FileName)); err != nil {
			t.Fatal(err)
		}
	}
	var damaged *damage.Error
	if err := r.CheckOwner("vm1", testDomainUUID); !errors.As(err, &damaged) {
		t.Errorf("nothing readable: got %v, want *damage.Error", err)
	}
}

func TestChain(t *testing.T) {
	r := chainOfThree(t)
	links, err := r.Links("vm1", "diff3", "vda")
	var got, want []string
	for _, l := range links {
		got = append(got, l.Path)
	}
	for _, id := range []string{"check1", "check2", "diff3"} {
		want = append(want, filepath.Join(r.PointDir("vm1", id), "vda.qcow2"))
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("chain %q, %v", got, err)
	}
	if got, err := r.Links("vm1", "copy10", "vda"); err != nil || len(got) != 1 {
		t.Errorf("chain of the copy %v, %v", got, err)
	}
	if _, err := r.Links("vm1", "check9", "vda"); !errors.Is(err, manifest.ErrNoPoint) {
		t.Errorf("got %v, want ErrNoPoint", err)
	}
	if _, err := r.Links("vm1", "check1", "vdz"); !errors.Is(err, ErrNoDisk) {
		t.Errorf("got %v, want ErrNoDisk", err)
	}
}

func TestChainNamesTheBrokenPoint(t *testing.T) {
	image := func(r *Repository, id string) string { return filepath.Join(r.PointDir("vm1", id), "vda.qcow2") }
	tests := map[string]struct {
		spoil  func(r *Repository) error
		broken string
	}{
		"middle point missing": {func(r *Repository) error { return os.RemoveAll(r.PointDir("vm1", "check2")) }, "check2"},
		"base image missing":   {func(r *Repository) error { return os.Remove(image(r, "check1")) }, "check1"},
		"own image missing":    {func(r *Repository) error { return os.Remove(image(r, "diff3")) }, "diff3"},
		"other backing file": {func(r *Repository) error {
			return edit(image(r, "check2"), "../check1/vda.qcow2", "../checkX/vda.qcow2")
		}, "check2"},
		"backing file outside": {func(r *Repository) error {
			return edit(image(r, "diff3"), "../check2/vda.qcow2", "../../../etc/shadow")
		}, "diff3"},
		"images swapped": {func(r *Repository) error {
			return errors.Join(os.Rename(image(r, "check2"), image(r, "check2")+".x"), os.Rename(image(r, "check1"), image(r, "check2")))
		}, "check2"},
		"image truncated": {func(r *Repository) error { return os.Truncate(image(r, "check1"), 50) }, "check1"},
		"image is a link": {func(r *Repository) error {
			return errors.Join(os.Rename(image(r, "check1"), filepath.Join(r.Dir(), "x")), os.Symlink(filepath.Join(r.Dir(), "x"), image(r, "check1")))
		}, "check1"},
	}
	whole := chainOfThree(t)
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := copyOf(t, whole)
			if err := tt.spoil(r); err != nil {
				t.Fatal(err)
			}
			_, err := r.Links("vm1", "diff3", "vda")
			var damaged *damage.Error
			if !errors.As(err, &damaged) || damaged.Points[0].ID != tt.broken {
				t.Errorf("got %v, want damage of %s", err, tt.broken)
			}
		})
	}
}

// A process that may open no more files knows nothing of a chain: that is no damage.
func TestLinksWithoutOpenFiles(t *testing.T) {
	r := chainOfThree(t)
	m, err := r.Point("vm1", "check2")
	if err != nil {
		t.Fatal(err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	_, ofLinks := r.Links("vm1", "diff3", "vda")
	ofHeader := diskimage.CheckHeader(r.Link(m, m.Disks[0]))
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{ofLinks, ofHeader} {
		var damaged *damage.Error
		if !errors.Is(err, unix.EMFILE) || errors.As(err, &damaged) {
			t.Errorf("got %v, want too many open files, and no damage", err)
		}
	}
}

// A manifest that this user may not read says nothing of its point: a plan without it
// would lose its base.
func TestPointsThatMayNotBeRead(t *testing.T) {
	r := chainOfThree(t)
	for dir := r.domainDir("vm1"); dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Seteuid(65534); err != nil { // of all threads: manifests are read side by side
		t.Fatal(err)
	}
	points, err := pointsOf(r, "vm1")
	if err := syscall.Seteuid(0); err != nil {
		t.Fatal(err)
	}
	var damaged *damage.Error
	if !errors.As(err, &damaged) || !errors.Is(damaged.NotNow(), fs.ErrPermission) {
		t.Errorf("got %s, %v; want to know that nobody can tell now", ids(points), err)
	}
	if err := (&damage.Error{Points: []damage.Point{{Err: fs.ErrNotExist}}}).NotNow(); err != nil {
		t.Errorf("of a manifest that is not there: %v", err)
	}
}

// edit replaces a string in a file by another of the same length.
func edit(path, from, to string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if len(from) != len(to) || !bytes.Contains(data, []byte(from)) {
		return fmt.Errorf("%s: cannot replace %q by %q", path, from, to)
	}
	return os.WriteFile(path, bytes.Replace(data, []byte(from), []byte(to), 1), 0o600)
}

// No lock-in: qemu-img restores a sealed point from the tree alone, from
// wherever it was moved to.
func TestQemuImgRestoresASealedPoint(t *testing.T) {
	r := chainOfThree(t)
	moved := filepath.Join(t.TempDir(), "elsewhere")
	if err := os.Rename(r.Dir(), moved); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(moved, "vm1", "diff3", "vda.qcow2")
	out := filepath.Join(t.TempDir(), "vda.raw")
	for _, args := range [][]string{{"check", image}, {"convert", "-O", "raw", image, out}} {
		cmd := exec.Command("qemu-img", args...)
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", cmd, err, text)
		}
	}
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 1<<20)
	copy(want, pageAligned(65536, uint64(len("../check2/vda.qcow2"))))
	if !bytes.Equal(got, want) {
		t.Error("the restored disk differs from what was written")
	}
}

// pointsOf lists the points that can be read; the error is that of the others.
func pointsOf(r *Repository, domain string) ([]manifest.Manifest, error) {
	l, err := r.Lineage(domain)
	if err != nil {
		return nil, err
	}
	return l.Points, l.Err()
}

func idsOf(r *Repository, domain string) ([]string, error) {
	l, err := r.Lineage(domain)
	if err != nil {
		return nil, err
	}
	return l.IDs(), nil
}
