package guestfs

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/fail"
)

// startSession starts a session with a guestfish that has one file, a set-user-ID program, at any path.
func startSession(t *testing.T) *Session {
	t.Helper()
	g, _ := startFake(t)
	return &Session{g: g, filesystems: []Filesystem{{Name: "vda1", Type: "ext4"}}, mounted: "vda1", damage: &failures{}}
}

func copyTo(t *testing.T, s *Session, dir string) (Copied, error) {
	t.Helper()
	c, err := NewCopying([]string{"vda1:/program"}, dir, false)
	if err != nil {
		t.Fatal(err)
	}
	return s.Copy(c)
}

// A guest's set-user-ID program keeps that bit only where nobody else can run it.
func TestCopySetUserID(t *testing.T) {
	s := startSession(t)
	for what, want := range map[string]struct{ dir, mode uint32 }{
		"made by cp": {0, 0o104755}, "closed": {0o700, 0o104755}, "open": {0o755, 0o100755}, "for a group": {0o710, 0o100755},
	} {
		dir := filepath.Join(t.TempDir(), "dest")
		if want.dir != 0 {
			if err := os.Mkdir(dir, os.FileMode(want.dir)); err != nil {
				t.Fatal(err)
			}
		}
		copied, err := copyTo(t, s, dir)
		var stat unix.Stat_t
		if err == nil {
			err = unix.Stat(filepath.Join(dir, "program"), &stat)
		}
		if err != nil || stat.Mode != want.mode {
			t.Errorf("%s: mode %o, want %o, %v", what, stat.Mode, want.mode, err)
		}
		if said := strings.Join(copied.Left, ";"); strings.Contains(said, "set-user-ID") != (stat.Mode&setID == 0) {
			t.Errorf("%s: left: %q", what, said)
		}
	}
	theirs := t.TempDir()
	if os.Geteuid() == 0 {
		if err := os.Chown(theirs, 1234, 1234); err != nil {
			t.Fatal(err)
		}
		if closed, err := isClosed(opened(t, theirs)); closed || err != nil {
			t.Errorf("a directory of another user is closed: %t, %v", closed, err)
		}
	}
}

// The same for all that an archive has: directories, fifos, capabilities.
func TestExtractionForOthers(t *testing.T) {
	program := header{name: "program", mode: 0o6755, xattrs: map[string]string{capability: "x", "user.note": "y"}}
	x := extraction{}
	if h := x.safe(program); h.mode != 0o755 || len(h.xattrs) != 1 || len(x.left) != 2 || len(program.xattrs) != 2 {
		t.Errorf("%+v, left: %q", h, x.left)
	}
	x = extraction{closed: true}
	if h := x.safe(program); h.mode != program.mode || len(h.xattrs) != 2 || len(x.left) != 0 {
		t.Errorf("%+v, left: %q", h, x.left)
	}
	setgid, file, fifo := dirEntry("./"), fileEntry("./file", "x"), tar.Header{Typeflag: tar.TypeFifo, Name: "./fifo", Mode: 0o6644}
	setgid.Mode, file.Mode = 0o2755, 0o6755
	inside := t.TempDir()
	root, err := os.OpenRoot(inside)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	x = extraction{root: root}
	if err := errors.Join(x.tar(bytes.NewReader(archive(t, setgid, file, fifo)), "top"), x.finishDirs()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{".", "file", "fifo"} {
		var stat unix.Stat_t
		if err := unix.Stat(filepath.Join(inside, "top", name), &stat); err != nil || stat.Mode&setID != 0 {
			t.Errorf("%s: mode %o, %v", name, stat.Mode, err)
		}
	}
	slices.Sort(x.left)
	if len(x.left) != 3 || !strings.HasPrefix(x.left[0], `"top": its set-user-ID`) {
		t.Errorf("left: %q", x.left)
	}
}

// Damaged data is given no place, whatever the appliance made of it.
func TestCopyDamaged(t *testing.T) {
	s := startSession(t)
	dir := t.TempDir()
	s.damage.add(fail.Errorf(fail.Damaged, "", "disk vda: a cluster differs from its hash"))
	_, err := copyTo(t, s, dir)
	if !fail.Is(err, fail.Damaged) {
		t.Errorf("the error is %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("the directory has %v, %v", entries, err)
	}
}

// asNobody calls do without the rights of root: its thread is another user's meanwhile.
func asNobody(t *testing.T, do func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		do()
		return
	}
	const same, nobody = ^uintptr(0), 65534
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, same, nobody, same); errno != 0 {
		t.Fatal(errno)
	}
	defer func() {
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, same, 0, same); errno != 0 {
			panic(errno) // with the thread locked: nothing else runs as nobody
		}
	}()
	do()
}

// nobodysDir is a directory for asNobody.
func nobodysDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if os.Geteuid() == 0 {
		if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o711), os.Chown(dir, 65534, 65534)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Users who are not root copy directories without rights for their owner, replace such ones, and
// remove what they cannot place.
func TestCopyReadOnlyDirectories(t *testing.T) {
	dir := nobodysDir(t)
	top, below := dirEntry("./"), dirEntry("./none")
	top.Mode, below.Mode = 0o555, 0
	data := archive(t, top, below, fileEntry("./none/file", "x"), dirEntry("./none/d"))
	copyAs := func(name string, names ...string) error {
		staged, err := tempDir(dir)
		if err != nil {
			return err
		}
		root, err := os.OpenRoot(byFD(staged.dir))
		if err != nil {
			return err
		}
		defer root.Close()
		x := &extraction{root: root, closed: true}
		defer x.close()
		if err := errors.Join(x.tar(bytes.NewReader(data), name), x.finishDirs()); err != nil {
			return err
		}
		c := &Copying{dir: dir, force: true, names: names}
		err = c.place(x, staged.dir, opened(t, dir))
		return errors.Join(err, staged.remove())
	}
	asNobody(t, func() {
		for _, what := range []string{"new", "replaced"} {
			if err := copyAs("etc", "etc"); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			for name, want := range map[string]uint32{"etc": 0o40555, "etc/none": 0o40000} {
				var stat unix.Stat_t
				if err := unix.Stat(filepath.Join(dir, name), &stat); err != nil || stat.Mode != want || stat.Mtim.Sec != 5 {
					t.Errorf("%s: %s has mode %o, mtime %d, %v", what, name, stat.Mode, stat.Mtim.Sec, err)
				}
			}
		}
		var before, after unix.Stat_t
		_ = unix.Stat(filepath.Join(dir, "etc"), &before)
		if err := copyAs("etc", "etc", "absent"); err == nil {
			t.Error("a name that is not there was placed")
		}
		_ = unix.Stat(filepath.Join(dir, "etc"), &after)
		if before.Ino != after.Ino || before.Mode != after.Mode {
			t.Errorf("a copy that was not placed has changed inode %d, mode %o to %d, %o", before.Ino, before.Mode, after.Ino, after.Mode)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
			t.Errorf("the directory has %v, %v", entries, err)
		}
		root, err := os.OpenRoot(dir)
		if err == nil {
			err = errors.Join(removeIn(root, "etc"), root.Close())
		}
		if err != nil {
			t.Error(err)
		}
	})
}
