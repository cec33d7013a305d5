package restore

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/internal/fail"
)

// killed is a directory as a killed restore of vm1 leaves it.
func killed(t *testing.T, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	leave(t, dir, filepath.Join(dir, markerName), marker{Names: []string{"vda.qcow2.partial", "vda.qcow2", "vm1.xml"}}, files...)
	return dir
}

// leave makes files, and the marker of the killed restore that has named them.
func leave(t *testing.T, dir, path string, m marker, files ...string) {
	t.Helper()
	m.Files = map[string]uint64{}
	for _, name := range files {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte("half"), 0o600))
		info, err := os.Stat(filepath.Join(dir, name))
		must(t, err)
		if filepath.Ext(name) != partialSuffix {
			m.Files[name] = info.Sys().(*syscall.Stat_t).Ino
		}
	}
	data, err := json.Marshal(m)
	must(t, err)
	must(t, os.WriteFile(path, append(data, "\nrest of a longer marker"...), 0o600))
}

// What a killed restore has left is removed, by a restore of anything.
func TestRestoreAfterAKilledOne(t *testing.T) {
	repo, _ := chainOf(t, 1, 1<<20, func(int) []int64 { return []int64{0} })
	for _, files := range [][]string{{}, {"vda.qcow2.partial"}, {"vda.qcow2.partial", "vm1.xml"}, {"vda.qcow2", "vm1.xml"}} {
		for _, format := range []Format{QCOW2, Raw} {
			dir := killed(t, files...)
			result, err := Run(t.Context(), repo, Request{Domain: "vm1", Dir: dir, Format: format})
			if err != nil {
				t.Errorf("%v: %v", files, err)
				continue
			}
			left, _ := os.ReadDir(dir)
			if len(left) != 2 || filepath.Join(dir, left[0].Name()) != result.Disks[0].Image || left[1].Name() != "vm1.xml" {
				t.Errorf("%v: %v is there", files, left)
			}
		}
	}
}

// Nothing is removed that the marker does not name, or that was changed since.
func TestRestoreBesideOthersFiles(t *testing.T) {
	repo, _ := chainOf(t, 1, 1<<20, func(int) []int64 { return []int64{0} })
	used := killed(t, "vda.qcow2", "vm1.xml")
	must(t, os.Chtimes(filepath.Join(used, "vda.qcow2"), time.Time{}, time.Now().Add(time.Second)))
	for name, dir := range map[string]string{"notes.txt": killed(t, "vda.qcow2.partial", "notes.txt"), "vda.qcow2": used} {
		before, _ := os.ReadDir(dir)
		_, err := Run(t.Context(), repo, Request{Domain: "vm1", Dir: dir})
		if !fail.Is(err, fail.Usage) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v, want fail.Usage", name, err)
		}
		if after, _ := os.ReadDir(dir); len(after) != len(before) {
			t.Errorf("%s: left %v of %v", name, after, before)
		}
	}
}

// A marker whose names lead elsewhere has none.
func TestMarkerOutside(t *testing.T) {
	repo, _ := chainOf(t, 1, 1<<20, func(int) []int64 { return []int64{0} })
	parent := t.TempDir()
	dir := filepath.Join(parent, "out")
	must(t, os.Mkdir(dir, 0o700))
	must(t, os.WriteFile(filepath.Join(parent, "precious"), nil, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, markerName), []byte(`{"names":["../precious","..",".","","/etc/hostname"]}`), 0o600))
	if _, err := Run(t.Context(), repo, Request{Domain: "vm1", Dir: dir}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(parent, "precious")); err != nil {
		t.Error(err)
	}
}

// A restore to where another one is at work is refused, and changes nothing there.
func TestRestoreWhereAnotherIsAtWork(t *testing.T) {
	repo, _ := chainOf(t, 1, 1<<20, func(int) []int64 { return []int64{0} })
	dir := filepath.Join(t.TempDir(), "out")
	var other error
	_, err := Run(t.Context(), repo, Request{Domain: "vm1", Dir: dir, Log: slog.New(onLine(func(line string) {
		if strings.HasPrefix(line, "restore check1") {
			_, other = Run(context.Background(), repo, Request{Domain: "vm1", Dir: dir})
		}
	}))})
	if err != nil || !fail.Is(other, fail.Locked) {
		t.Errorf("got %v and %v, want fail.Locked of the second", err, other)
	}
}

// Finish is part of the restore: if it fails, nothing is left.
func TestFinish(t *testing.T) {
	repo, _ := chainOf(t, 1, 1<<20, func(int) []int64 { return []int64{0} })
	dir := filepath.Join(t.TempDir(), "out")
	request := Request{Domain: "vm1", Dir: dir}
	var want error
	request.Finish = func(_ context.Context, result *Result) error {
		if _, err := os.Stat(result.Disks[0].Image); err != nil {
			t.Error(err)
		}
		result.Warnings = append(result.Warnings, "told")
		return want
	}
	want = os.ErrDeadlineExceeded
	if _, err := Run(t.Context(), repo, request); err == nil {
		t.Error("the error is lost")
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("something is left")
	}
	want = nil
	result, err := Run(t.Context(), repo, request)
	if err != nil || len(result.Warnings) != 1 {
		t.Errorf("got %+v, %v", result, err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 2 {
		t.Errorf("there are %v", left)
	}
}

// A file that somebody has put where a killed restore was going to name its own stays, however
// old it is: mv and cp -p keep the time.
func TestRestoreWhereAFileWasMovedTo(t *testing.T) {
	repo, _ := chainOf(t, 1, 1<<20, func(int) []int64 { return []int64{0} })
	for _, left := range []string{"vda.qcow2.partial", "vda.qcow2"} {
		dir := killed(t, left)
		theirs := filepath.Join(t.TempDir(), "theirs")
		must(t, os.WriteFile(theirs, []byte("precious"), 0o600))
		must(t, os.Chtimes(theirs, time.Time{}, time.Now().Add(-time.Hour)))
		must(t, os.Rename(theirs, filepath.Join(dir, "vda.qcow2")))
		if _, err := Run(t.Context(), repo, Request{Domain: "vm1", Dir: dir}); !fail.Is(err, fail.Usage) {
			t.Errorf("%s was left: got %v, want fail.Usage", left, err)
		}
		if data, _ := os.ReadFile(filepath.Join(dir, "vda.qcow2")); string(data) != "precious" {
			t.Errorf("%s was left: the file is gone", left)
		}
	}
}

// A domain that a killed restore may have defined is not left without its images.
func TestRestoreWhereADomainMayBeDefined(t *testing.T) {
	repo, _ := chainOf(t, 1, 1<<20, func(int) []int64 { return []int64{0} })
	dir := t.TempDir()
	leave(t, dir, filepath.Join(dir, markerName), marker{Names: []string{"vda.qcow2"}, Defines: "uuid"}, "vda.qcow2")
	if _, err := Run(t.Context(), repo, Request{Domain: "vm1", Dir: dir}); !fail.Is(err, fail.Usage) || !strings.Contains(err.Error(), "uuid") {
		t.Errorf("got %v, want fail.Usage", err)
	}
	if Marked(dir) != "uuid" {
		t.Error("the marker is gone")
	}
	if _, err := Run(t.Context(), repo, Request{Domain: "vm1", Dir: dir, Undo: func() error { return nil }}); err != nil {
		t.Error(err)
	}
}

// Only one restore at a time has a claim, whenever the one before it removes the marker.
func TestClaimIsExclusive(t *testing.T) {
	path := filepath.Join(t.TempDir(), markerName)
	var holders atomic.Int32
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 300 {
				c, err := takeClaim(path)
				if fail.Is(err, fail.Locked) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if holders.Add(1) > 1 {
					t.Error("two have it")
				}
				runtime.Gosched()
				holders.Add(-1)
				if err := c.release(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
}

// A directory is never what a killed restore has left, nor what is in it.
func TestRestoreBesideADirectory(t *testing.T) {
	repo, _ := chainOf(t, 1, 1<<20, func(int) []int64 { return []int64{0} })
	for _, name := range []string{"vda.qcow2", "vda.qcow2.partial"} {
		dir := killed(t)
		file := filepath.Join(dir, name, "precious")
		must(t, os.Mkdir(filepath.Dir(file), 0o700))
		must(t, os.WriteFile(file, nil, 0o600))
		if _, err := Run(t.Context(), repo, Request{Domain: "vm1", Dir: dir}); !fail.Is(err, fail.Usage) {
			t.Errorf("%s: got %v, want fail.Usage", name, err)
		}
		if _, err := os.Stat(file); err != nil {
			t.Error(err)
		}
	}
}
