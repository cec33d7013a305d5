package pointfile

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// point is a directory with a file of more than one buffer, and its manifest.
func point(t *testing.T, name string) (dir string, m manifest.Manifest, data []byte) {
	t.Helper()
	dir, data = t.TempDir(), bytes.Repeat([]byte("content "), 200<<10)
	sum, size, err := Write(filepath.Join(dir, name), bytes.NewReader(data))
	must(t, err)
	if sum != digest.Of(data) || size != int64(len(data)) {
		t.Errorf("wrote %s, %d bytes, want %s, %d", sum, size, digest.Of(data), len(data))
	}
	return dir, manifest.Manifest{Domain: "vm1", ID: "check1", Files: map[string]string{name: sum}}, data
}

func TestWrite(t *testing.T) {
	dir, _, _ := point(t, "kernel")
	if _, _, err := Write(filepath.Join(dir, "kernel"), strings.NewReader("other")); !errors.Is(err, os.ErrExist) {
		t.Errorf("over another file: %v", err)
	}
	if info, err := os.Stat(filepath.Join(dir, "kernel")); err != nil || info.Mode() != 0o600 || info.Size() == 5 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	broken := errors.New("broken")
	if _, _, err := Write(filepath.Join(dir, "x"), io.MultiReader(strings.NewReader("some"), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "x")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file is left: %v", err)
	}
}

func TestSound(t *testing.T) {
	dir, m, data := point(t, "kernel")
	var read int64
	if found, err := Check(t.Context(), dir, m, "kernel", func(n int64) { read += n }); len(found) != 0 || err != nil || read != int64(len(data)) {
		t.Errorf("found %v, %v; read %d bytes", found, err, read)
	}
	var to bytes.Buffer
	if err := CopyTo(t.Context(), dir, m, "kernel", &to); err != nil || !bytes.Equal(to.Bytes(), data) {
		t.Errorf("copied %d bytes, %v", to.Len(), err)
	}
	if got, err := Read(dir, m, "kernel"); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
}

// Damage is found, and nothing of a damaged file gets anywhere.
func TestDamage(t *testing.T) {
	for what, harm := range map[string]func(path string) error{
		"a flipped bit": func(path string) error {
			data, err := os.ReadFile(path)
			data[len(data)-1] ^= 1
			return errors.Join(err, os.WriteFile(path, data, 0o600))
		},
		"cut short": func(path string) error { return os.Truncate(path, 1000) },
		"missing":   os.Remove,
		"a link":    func(path string) error { return errors.Join(os.Rename(path, path+"2"), os.Symlink(path+"2", path)) },
		"a FIFO":    func(path string) error { return errors.Join(os.Remove(path), unix.Mkfifo(path, 0o600)) },
	} {
		for _, name := range []string{"nvram.fd", manifest.CheckpointXML} {
			dir, m, _ := point(t, name)
			must(t, harm(filepath.Join(dir, name)))
			found, err := Check(t.Context(), dir, m, name, nil)
			if err != nil || len(found) != 1 || found[0].File != "vm1/check1/"+name || found[0].Disk != "" || found[0].Harmless != (name == manifest.CheckpointXML) {
				t.Errorf("%s: found %+v, %v", what, found, err)
			}
			var to bytes.Buffer
			if err := CopyTo(t.Context(), dir, m, name, &to); !fail.Is(err, fail.Damaged) || to.Len() > 0 {
				t.Errorf("%s: %d bytes copied, %v", what, to.Len(), err)
			}
			if data, err := Read(dir, m, name); !fail.Is(err, fail.Damaged) || data != nil {
				t.Errorf("%s: %d bytes read, %v", what, len(data), err)
			}
		}
	}
}

// What changes while it is copied is damage.
func TestChangesWhileCopied(t *testing.T) {
	dir, m, data := point(t, "kernel")
	err := CopyTo(t.Context(), dir, m, "kernel", writerFunc(func(p []byte) (int, error) {
		data[len(data)-1] ^= 1
		return len(p), os.WriteFile(filepath.Join(dir, "kernel"), data, 0o600)
	}))
	if !fail.Is(err, fail.Damaged) {
		t.Errorf("got %v", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestEndedEarly(t *testing.T) {
	dir, m, _ := point(t, "kernel")
	full := errors.New("no space")
	if err := CopyTo(t.Context(), dir, m, "kernel", writerFunc(func([]byte) (int, error) { return 0, full })); !errors.Is(err, full) || fail.Is(err, fail.Damaged) {
		t.Errorf("got %v", err)
	}
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := Check(ctx, dir, m, "kernel", nil); !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
	if err := CopyTo(ctx, dir, m, "kernel", io.Discard); !errors.Is(err, cause) || fail.Is(err, fail.Damaged) {
		t.Errorf("got %v", err)
	}
}

// A set knows the digests of what was added to it, and takes nothing once it is closed.
func TestSet(t *testing.T) {
	domain, dir := t.TempDir(), ""
	old, m, data := point(t, "kernel")
	must(t, os.Rename(old, filepath.Join(domain, m.ID)))
	dir = filepath.Join(domain, ".partial-check2")
	must(t, os.Mkdir(dir, 0o700))
	s := NewSet("check2", dir)
	must(t, s.WriteFile("domain.xml", []byte("<domain/>")))
	must(t, s.LinkFile("kernel", m, "kernel"))
	sum, size, err := s.CopyFile("initrd", strings.NewReader("initrd"))
	must(t, err)
	_, _, err = s.CopyFile("dtb", strings.NewReader("dtb"))
	must(t, errors.Join(err, s.DropFile("dtb")))
	s.Note("other", sum)
	want := map[string]string{"domain.xml": digest.Of([]byte("<domain/>")), "kernel": digest.Of(data), "initrd": digest.Of([]byte("initrd")), "other": sum}
	if got := s.Digests(); !maps.Equal(got, want) || sum != want["initrd"] || size != 6 {
		t.Errorf("got %v, want %v", got, want)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 3 {
		t.Errorf("in the directory are %v, %v", entries, err)
	}
	for _, name := range []string{"../x", ".x", "", manifest.FileName, "kernel"} {
		if s.WriteFile(name, nil) == nil || s.LinkFile(name, m, "kernel") == nil {
			t.Errorf("%q was added", name)
		}
	}
	if got, err := Read(dir, manifest.Manifest{Files: want}, "kernel"); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the file that was there has %d bytes, %v", len(got), err)
	}
	s.Close()
	if s.WriteFile("new", nil) == nil {
		t.Error("added to a closed set")
	}
}
