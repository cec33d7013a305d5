package localfile

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/tests/testfs"
)

func TestExchange(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	for _, d := range []string{a, b} {
		must(t, os.Mkdir(d, 0o700))
		must(t, os.WriteFile(filepath.Join(d, "name"), []byte(filepath.Base(d)), 0o600))
	}
	must(t, Exchange(a, b))
	for _, d := range []string{a, b} {
		got, err := os.ReadFile(filepath.Join(d, "name"))
		must(t, err)
		if string(got) == filepath.Base(d) {
			t.Errorf("%s is as before", d)
		}
	}
	if err := Exchange(a, filepath.Join(dir, "absent")); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrNotSupported) {
		t.Errorf("absent name: got %v, want ErrNotExist", err)
	}
}

// TestExchangeNotSupported moves a directory below itself, which returns EINVAL as a file
// system without RENAME_EXCHANGE does.
func TestExchangeNotSupported(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "below"), 0o700))
	if err := Exchange(dir, filepath.Join(dir, "below")); !errors.Is(err, ErrNotSupported) || !errors.Is(err, unix.EINVAL) {
		t.Errorf("got %v, want ErrNotSupported with EINVAL", err)
	}
}

func create(t *testing.T, path string, data []byte) *os.File {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	_, err = f.Write(data)
	must(t, err)
	return f
}

func blocks(t *testing.T, f *os.File) int64 {
	t.Helper()
	must(t, f.Sync())
	var s unix.Stat_t
	must(t, unix.Fstat(int(f.Fd()), &s))
	return s.Blocks * 512
}

func TestCloneAndPunch(t *testing.T) {
	dir := testfs.XFS(t, 512<<20)
	old := bytes.Repeat([]byte("old."), 64<<10)
	fresh := bytes.Repeat([]byte("new."), 64<<10)
	a, b := create(t, filepath.Join(dir, "a"), old), create(t, filepath.Join(dir, "b"), nil)
	must(t, Clone(a, b))
	must(t, CloneRange(create(t, filepath.Join(dir, "c"), fresh), 4096, 64<<10, b, 128<<10))
	want := bytes.Clone(old)
	copy(want[128<<10:192<<10], fresh)
	before := blocks(t, b)
	must(t, Punch(b, 64<<10, 64<<10))
	clear(want[64<<10 : 128<<10])
	got, err := os.ReadFile(b.Name())
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Error("the clone does not hold what was cloned, or not zeros where it was freed")
	}
	if after := blocks(t, b); before-after != 64<<10 {
		t.Errorf("freeing 64 KiB left %d bytes of %d", after, before)
	}
	got, err = os.ReadFile(a.Name())
	must(t, err)
	if !bytes.Equal(got, old) {
		t.Error("the file that was cloned has changed")
	}
}

func TestCloneNotSupported(t *testing.T) {
	here, there := t.TempDir(), testfs.XFS(t, 512<<20)
	a, b := create(t, filepath.Join(here, "a"), []byte("data")), create(t, filepath.Join(there, "b"), nil)
	if err := Clone(a, b); !errors.Is(err, ErrNotSupported) || !strings.Contains(err.Error(), "clone "+a.Name()) {
		t.Errorf("got %v, want ErrNotSupported with operation and path", err)
	}
	if err := CloneRange(a, 0, 4096, b, 0); !errors.Is(err, ErrNotSupported) || !strings.Contains(err.Error(), "4096 bytes at offset 0") {
		t.Errorf("got %v, want ErrNotSupported with the offset", err)
	}
}

// TestCloneFails has a file that is open for reading only: that says nothing of the file
// system.
func TestCloneFails(t *testing.T) {
	dir := testfs.XFS(t, 512<<20)
	a := create(t, filepath.Join(dir, "a"), []byte("data"))
	b, err := os.Open(create(t, filepath.Join(dir, "b"), nil).Name())
	must(t, err)
	defer b.Close()
	if err := Clone(a, b); err == nil || errors.Is(err, ErrNotSupported) {
		t.Errorf("clone to a file that is not open for writing: got %v", err)
	}
	if err := Punch(b, 0, 4096); err == nil || errors.Is(err, ErrNotSupported) || !strings.Contains(err.Error(), "offset 0 "+b.Name()) {
		t.Errorf("punch a file that is not open for writing: got %v", err)
	}
}
