package guestfs

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/repository"
)

// archive is what an appliance would send, honest or not.
func archive(t *testing.T, entries ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		content := e.Uname // of a file: a place in the structure that is not used otherwise
		e.Uname, e.Size = "", int64(len(content))
		e.Format = tar.FormatPAX
		if err := w.WriteHeader(&e); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func dirEntry(name string) tar.Header {
	return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755, ModTime: time.Unix(5, 0)}
}

func fileEntry(name, content string) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Uname: content, Mode: 0o644, ModTime: time.Unix(7, 123456789)}
}

// extract makes an archive's files in a directory beside one that must not change.
func extract(t *testing.T, data []byte) (x *extraction, inside, outside string, err error) {
	t.Helper()
	dir := t.TempDir()
	inside, outside = filepath.Join(dir, "inside"), filepath.Join(dir, "outside")
	for _, d := range []string{inside, outside} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(inside)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	x = &extraction{root: root, closed: true}
	err = x.tar(bytes.NewReader(data), "top")
	if err == nil {
		err = errors.Join(x.finishDirs(), x.openTops())
	}
	x.close()
	t.Cleanup(func() { // what has no permissions cannot be removed by everyone
		_ = filepath.WalkDir(inside, func(p string, e fs.DirEntry, _ error) error {
			if e.IsDir() {
				_ = os.Chmod(p, 0o700)
			}
			return nil
		})
	})
	return x, inside, outside, err
}

// What is in the archive is in the directory, with modes and times.
func TestExtraction(t *testing.T) {
	big := strings.Repeat("\x00", 3*sparseBlock+5) + "end"
	hole := strings.Repeat("\x00", 4*sparseBlock+1)
	setuid := fileEntry("./d/setuid", "x")
	setuid.Mode = 0o6751
	readOnly := dirEntry("./d/")
	readOnly.Mode = 0o500
	x, inside, _, err := extract(t, archive(t, dirEntry("./"), readOnly, setuid, fileEntry("./big", big), fileEntry("./hole", hole), fileEntry("./empty", ""),
		fileEntry("./new\nline", "n"),
		tar.Header{Typeflag: tar.TypeLink, Name: "./d/again", Linkname: "./d/setuid"},
		tar.Header{Typeflag: tar.TypeSymlink, Name: "./link", Linkname: "../../outside", ModTime: time.Unix(9, 0)},
		tar.Header{Typeflag: tar.TypeFifo, Name: "./fifo", Mode: 0o620, ModTime: time.Unix(9, 0)},
		tar.Header{Typeflag: tar.TypeBlock, Name: "./disk", Mode: 0o666, Devmajor: 8}))
	if err != nil {
		t.Fatal(err)
	}
	top := filepath.Join(inside, "top")
	for name, want := range map[string]string{"d/setuid": "x", "d/again": "x", "big": big, "hole": hole, "empty": "", "new\nline": "n"} {
		if data, err := os.ReadFile(filepath.Join(top, name)); err != nil || string(data) != want {
			t.Errorf("%q: %d bytes, %v", name, len(data), err)
		}
	}
	for name, want := range map[string]struct {
		mode  uint32
		mtime int64
	}{
		"d/setuid": {0o106751, 7}, "d": {0o040500, 5}, "": {0o040755, 5}, "link": {0o120777, 9}, "fifo": {0o010620, 9}, "big": {0o100644, 7},
	} {
		var s unix.Stat_t
		if err := unix.Lstat(filepath.Join(top, name), &s); err != nil || s.Mode != want.mode || s.Mtim.Sec != want.mtime {
			t.Errorf("%q: mode %o, mtime %d, %v", name, s.Mode, s.Mtim.Sec, err)
		}
		if name == "big" && (s.Mtim.Nsec != 123456789 || s.Blocks*512 > sparseBlock) {
			t.Errorf("big has %d blocks, mtime %d", s.Blocks, s.Mtim.Nsec)
		}
	}
	if _, err := os.Lstat(filepath.Join(top, "disk")); !errors.Is(err, fs.ErrNotExist) || len(x.left) != 1 {
		t.Errorf("the device node: %v, left: %q", err, x.left)
	}
	if x.files != 10 || x.bytes != int64(len(big)+len(hole)+2) {
		t.Errorf("%d files of %d bytes", x.files, x.bytes)
	}
}

// Whatever an archive has, nothing outside of the directory is made or changed.
func TestExtractionStaysInside(t *testing.T) {
	link := func(name, target string) tar.Header {
		return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}
	}
	hard := func(name, target string) tar.Header {
		return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}
	}
	for what, entries := range map[string][]tar.Header{
		"a name with dots":               {fileEntry("../../outside/x", "x")},
		"dots within":                    {dirEntry("a/"), fileEntry("a/../../../outside/x", "x")},
		"an absolute name":               {fileEntry("/tmp/vbtest-outside", "x")},
		"through a link":                 {link("l", "../../outside"), fileEntry("l/x", "x")},
		"through an absolute link":       {link("l", "/tmp"), fileEntry("l/vbtest-outside", "x")},
		"through a link that is over it": {link("l", "../../outside"), dirEntry("l/"), fileEntry("l/x", "x")},
		"through a link of a link":       {link("a", "../.."), link("b", "a/outside"), fileEntry("b/x", "x")},
		"onto a link":                    {link("l", "../../outside/x"), fileEntry("l", "x")},
		"a fifo through a link":          {link("l", "../../outside"), {Typeflag: tar.TypeFifo, Name: "l/x"}},
		"a link through a link":          {link("l", "../../outside"), link("l/x", "y")},
		"a directory through a link":     {link("l", "../../outside"), dirEntry("l/x/")},
		"a hard link to the host":        {hard("h", "../../outside/there")},
		"a hard link through a link":     {link("l", "../../outside"), hard("h", "l/there"), fileEntry("h", "x")},
		"a file twice":                   {fileEntry("f", "x"), fileEntry("f", "y")},
		"over a directory":               {dirEntry("d/"), fileEntry("d", "x")},
	} {
		t.Run(what, func(t *testing.T) {
			_, _, outside, err := extract(t, archive(t, append([]tar.Header{dirEntry("./")}, entries...)...))
			if err == nil {
				t.Error("no error")
			}
			if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
				t.Errorf("outside: %v, %v", left, err)
			}
			if _, err := os.Lstat("/tmp/vbtest-outside"); err == nil {
				t.Error("a file was made in /tmp")
			}
		})
	}
}

// An archive that is cut short, anywhere, is no success.
func TestArchiveCutShort(t *testing.T) {
	data := archive(t, dirEntry("./"), fileEntry("./a", strings.Repeat("a", 3000)), fileEntry("./b", strings.Repeat("b", 5000)))
	whole := len(data) - 1024 // two blocks of zeros end it
	for n := 0; n < whole; n += 64 {
		if _, _, _, err := extract(t, data[:n]); err == nil {
			t.Errorf("%d bytes of %d are taken for all", n, len(data))
		}
	}
}

func FuzzExtraction(f *testing.F) {
	f.Add("l", "../../outside", "l/x")
	f.Add("../x", "/etc", "..")
	f.Fuzz(func(t *testing.T, a, target, b string) {
		if strings.Contains(a+target+b, "\x00") || a == "" || b == "" {
			return
		}
		_, _, outside, _ := extract(t, archive(t, dirEntry("./"), tar.Header{Typeflag: tar.TypeSymlink, Name: a, Linkname: target}, fileEntry(b, "x"), tar.Header{Typeflag: tar.TypeLink, Name: b + "2", Linkname: a}))
		if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
			t.Errorf("outside: %v, %v", left, err)
		}
	})
}

func TestCopiedName(t *testing.T) {
	for path, want := range map[string]string{"/etc": "etc", "/etc/": "etc", "/": rootName, "vda1:/": rootName, "vg/x:/a/b": "b", "/a/..": rootName, "/a:/b": "b", "/a/../b": "b"} {
		if got := copiedName(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

// A copy that cannot be placed as a whole leaves the directory as it was.
func TestPlace(t *testing.T) {
	dir := t.TempDir()
	staged := filepath.Join(dir, "staged")
	if err := os.Mkdir(staged, 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(path, content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	read := func(name string) string {
		data, _ := os.ReadFile(filepath.Join(dir, name))
		return string(data)
	}
	write(filepath.Join(staged, "a"), "new a")
	write(filepath.Join(dir, "a"), "old a")
	c, err := NewCopying([]string{"/a", "/b"}, dir, true)
	if err != nil {
		t.Fatal(err)
	}
	place := func() error { return c.place(&extraction{}, opened(t, staged), opened(t, dir)) }
	if err := place(); err == nil || read("a") != "old a" { // there is no b
		t.Errorf("a is %q, %v", read("a"), err)
	}
	write(filepath.Join(staged, "b"), "new b")
	if err := place(); err != nil || read("a") != "new a" || read("b") != "new b" {
		t.Errorf("a is %q, b is %q, %v", read("a"), read("b"), err)
	}
	for what, paths := range map[string][]string{"a name that exists": {"/x/a"}, "a name twice": {"/x/c", "/y/c"}} {
		if _, err := NewCopying(paths, dir, false); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	if _, err := NewCopying([]string{"/c"}, filepath.Join(dir, "new"), false); err != nil {
		t.Error(err)
	}
	_, err = NewCopying([]string{"/c"}, filepath.Join(dir, "not", "there", "either"), false)
	if want := "mkdir -p " + filepath.Join(dir, "not", "there"); !fail.Is(err, fail.Usage) || fail.HintOf(err) != want {
		t.Errorf("%v, hint %q", err, fail.HintOf(err))
	}
}

// Nothing is copied into a repository, where it would be damage or, with force, take a point's place.
func TestNotIntoRepository(t *testing.T) {
	repo, err := repository.Create(filepath.Join(t.TempDir(), "repo"))
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := errors.Join(os.Mkdir(repo.DomainDir("vm1"), 0o700), os.Symlink(repo.DomainDir("vm1"), link)); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{repo.Dir(), repo.DomainDir("vm1"), filepath.Join(repo.Dir(), "new"), link} {
		if _, err := NewCopying([]string{"/check1"}, dir, true); !fail.Is(err, fail.Usage) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

func opened(t *testing.T, dir string) *os.File {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// The owner of the directory puts a link in the place of the one that files are made in: nothing of
// where it leads is moved.
func TestPlaceSwapped(t *testing.T) {
	dest, host := t.TempDir(), t.TempDir()
	staged, err := tempDir(dest)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{dest, host, staged.path} {
		if err := os.WriteFile(filepath.Join(dir, "passwd"), []byte(dir), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := NewCopying([]string{"/etc/passwd"}, dest, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Rename(staged.path, filepath.Join(dest, "moved")), os.Symlink(host, staged.path)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.place(&extraction{}, staged.dir, opened(t, dest)), staged.remove()); err != nil {
		t.Error(err)
	}
	for dir, want := range map[string]string{dest: staged.path, host: host} {
		if got, err := os.ReadFile(filepath.Join(dir, "passwd")); err != nil || string(got) != want {
			t.Errorf("%s has %q, %v, want %q", dir, got, err, want)
		}
	}
}

func TestXattrsOf(t *testing.T) {
	kept := xattrsOf(map[string]string{"SCHILY.xattr.user.a": "1", "SCHILY.xattr.security.capability": "2", "SCHILY.xattr.security.selinux": "3", "SCHILY.xattr.trusted.x": "4", "mtime": "5"})
	names := []string{}
	for name := range kept {
		names = append(names, name)
	}
	slices.Sort(names)
	if !slices.Equal(names, []string{"security.capability", "user.a"}) {
		t.Errorf("kept: %q", names)
	}
}
