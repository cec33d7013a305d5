package guestfs

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/panics"
)

// fake does what guestfish does with lines, without an appliance.
const fake = `#!/bin/bash
while IFS= read -r line; do
	case $line in
	"echo "*) echo "${line#echo }" ;;
	two) printf 'one\ntwo\n' ;;
	raw) printf 'no end of line' ;;
	yes) echo true ;;
	directories) echo "$LIBGUESTFS_TMPDIR $LIBGUESTFS_CACHEDIR" ;;
	data*) file=${line##*'"data-out" "'}; printf 'of the guest' >"${file%\"*}" ;;
	endless*) file=${line##*'"data-out" "'}; yes >"${file%\"*}"; exit 1 ;;
	silent* | lgetxattrs*) ;;
	exists*) echo true ;;
	lstatns*) printf 'st_dev: 1\nst_ino: 2\nst_mode: 35309\nst_mtime_sec: 7\n' ;; # 0104755
	download*) file=${line##*' "'}; printf 'of the guest' >"${file%\"*}" ;;
	fails*) printf 'libguestfs: error: it\033 fails\nDo:\n  export LIBGUESTFS_DEBUG=1\n' >&2; exit 1 ;;
	ends) exit 3 ;;
	hangs) sleep 1000; echo 'libguestfs: error: appliance closed the connection' >&2; exit 1 ;;
	esac
done
echo ended >"$TMPDIR/ended"
`

// startFake starts it; its directory is the second result.
func startFake(t *testing.T) (*guestfish, string) {
	t.Helper()
	bin, dir := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "guestfish"), []byte(fake), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	g, err := startGuestfish(dir, "/cache", "/nowhere", []string{"vda"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.end)
	return g, dir
}

func TestAnswers(t *testing.T) {
	g, dir := startFake(t)
	for line, want := range map[string]string{"two": "one\ntwo\n", "raw": "no end of line", "silent": ""} {
		if got, err := g.run(line); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", line, got, err)
		}
	}
	if lines, err := g.lines("two"); err != nil || len(lines) != 2 {
		t.Errorf("lines: %q, %v", lines, err)
	}
	if lines, err := g.lines("silent"); err != nil || len(lines) != 0 {
		t.Errorf("lines: %q, %v", lines, err)
	}
	if got, err := g.run("directories"); err != nil || string(got) != dir+" /cache\n" {
		t.Errorf("libguestfs's directories are %s, %v", got, err)
	}
	if yes, err := g.is("yes"); err != nil || !yes {
		t.Errorf("%t, %v", yes, err)
	}
	read := func(name string) (string, error) {
		var got []byte
		err := g.stream(func(r io.Reader) (err error) {
			got, err = io.ReadAll(r)
			return err
		}, "", name, "data-out")
		return string(got), err
	}
	// A command that never opens the file is no reason to wait.
	for name, want := range map[string]string{"data": "of the guest", "silent": ""} {
		if got, err := read(name); err != nil || got != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := read("fails"); err == nil || !strings.Contains(err.Error(), "it\x1b fails") || strings.Contains(err.Error(), "LIBGUESTFS") {
		t.Errorf("the error is %q", err)
	}
	if _, err := g.run("two"); err == nil {
		t.Error("no error after the end")
	}
	if _, err := os.Lstat(filepath.Join(dir, "ended")); err == nil {
		t.Error("it has read on after the error")
	}
}

// A command that fails without a word is an error too; the end of the input ends it in order.
func TestEnds(t *testing.T) {
	g, _ := startFake(t)
	if _, err := g.run("ends"); err == nil || !strings.Contains(err.Error(), "ends: exit status 3") {
		t.Errorf("%v", err)
	}
	g, dir := startFake(t)
	g.end()
	if _, err := os.Lstat(filepath.Join(dir, "ended")); err != nil {
		t.Error(err)
	}
}

// A cancelled context ends a command that waits for the appliance, by ending that.
func TestInterrupted(t *testing.T) {
	g, _ := startFake(t)
	cause := errors.New("a signal")
	ctx, cancel := context.WithCancelCause(context.Background())
	begin := time.Now()
	err := g.whileRunning(ctx, func() error {
		cancel(cause)
		_, err := g.run("hangs")
		return err
	})
	if !errors.Is(err, cause) || time.Since(begin) > endTime {
		t.Errorf("%v after %s", err, time.Since(begin))
	}
}

// A reader that has enough, such as head, ends a command that would write on for long.
func TestReaderEnds(t *testing.T) {
	g, _ := startFake(t)
	enough := errors.New("enough")
	err := g.stream(func(r io.Reader) error {
		_, _ = r.Read(make([]byte, 10))
		return enough
	}, "", "endless", "data-out")
	if !errors.Is(err, enough) || g.err == nil || g.err.Error() != "exit status 1" {
		t.Errorf("%v; guestfish has ended with %v, not by itself", err, g.err)
	}
}

func TestNotInstalled(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	err := Use(context.Background(), nil, Request{}, func(*Session) error { return nil })
	if err == nil || fail.KindOf(err) != fail.Other || !strings.Contains(fail.HintOf(err), "apt-get install libguestfs-tools") {
		t.Errorf("%v, hint: %s", err, fail.HintOf(err))
	}
}

// What a killed process has left is removed by the next one, and nothing else: not what a guest has
// given such a name.
func TestTempDir(t *testing.T) {
	parent := t.TempDir()
	killed, err := tempDir(parent)
	if err != nil {
		t.Fatal(err)
	}
	killed.dir.Close() // and not removed
	left, other, copied := killed.path, filepath.Join(parent, "other"), filepath.Join(parent, tempPrefix+"1234567890")
	for _, d := range []string{other, copied} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.WriteFile(filepath.Join(copied, tempMark), nil, 0o600), os.Mkdir(filepath.Join(copied, "files"), 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(other, filepath.Join(parent, tempPrefix+"link")); err != nil {
		t.Fatal(err)
	}
	first, err := tempDir(parent)
	if err != nil {
		t.Fatal(err)
	}
	second, err := tempDir(parent)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{left: false, other: true, copied: true, first.path: true} {
		if _, err := os.Lstat(path); (err == nil) != want {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := errors.Join(first.remove(), second.remove()); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(parent); err != nil || len(left) != 3 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// Processes that begin at the same time do not take the directories of one another for abandoned ones.
func TestTempDirSideBySide(t *testing.T) {
	parent := t.TempDir()
	var all panics.Group
	for range 8 {
		all.Go(func() error {
			for range 100 {
				d, err := tempDir(parent)
				if err != nil {
					return err
				}
				if _, err := os.Lstat(d.path); err != nil {
					return err
				}
				if err := d.remove(); err != nil {
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
