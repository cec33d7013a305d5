package restore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// What Finish has done elsewhere is undone while the images are still there, if Finish fails
// and where a killed restore has left something. If that fails they stay, for the next restore.
func TestUndo(t *testing.T) {
	repo, _ := chainOf(t, 1, 1<<20, func(int) []int64 { return []int64{0} })
	broken := errors.New("broken")
	for _, undoFails := range []bool{false, true} {
		dir := filepath.Join(t.TempDir(), "out")
		var undone, there int
		request := Request{Domain: "vm1", Dir: dir, Defines: "uuid"}
		request.Finish = func(context.Context, *Result) error {
			return broken
		}
		request.Undo = func() error {
			undone++
			if _, err := os.Stat(filepath.Join(dir, "vda.qcow2")); err == nil {
				there++
			}
			if Marked(dir) != "uuid" {
				t.Errorf("the marker is of %q", Marked(dir))
			}
			if undoFails {
				return errors.New("cannot be undone")
			}
			return nil
		}
		if _, err := Run(t.Context(), repo, request); !errors.Is(err, broken) || undone != 1 || there != 1 {
			t.Errorf("got %v, undone %d times, with the image %d times", err, undone, there)
		}
		if left, _ := os.ReadDir(dir); (len(left) > 0) != undoFails || (Marked(dir) == "uuid") != undoFails {
			t.Errorf("undo fails %v: left %v", undoFails, left)
		}
		undoFails, request.Finish = false, nil
		if _, err := Run(t.Context(), repo, request); err != nil {
			t.Error(err)
		}
		if left, _ := os.ReadDir(dir); len(left) != 2 || undone != there {
			t.Errorf("begun again: %v, undone %d times, with the image %d times", left, undone, there)
		}
	}
}

// Where what a killed restore has done cannot be undone, all of it stays, for the next one.
func TestUndoOfAKilledOneFails(t *testing.T) {
	repo, _ := chainOf(t, 1, 1<<20, func(int) []int64 { return []int64{0} })
	dir := killed(t, "vda.qcow2", "vm1.xml")
	broken := errors.New("broken")
	request := Request{Domain: "vm1", Dir: dir, Undo: func() error { return broken }}
	if _, err := Run(t.Context(), repo, request); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 3 {
		t.Errorf("left %v, want the marker, too", left)
	}
	request.Undo = nil
	if _, err := Run(t.Context(), repo, request); err != nil {
		t.Error(err)
	}
}

// Nothing was done elsewhere before Finish, and nothing is undone.
func TestNothingToUndo(t *testing.T) {
	repo, _ := chainOf(t, 1, 1<<20, func(int) []int64 { return []int64{0} })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Run(ctx, repo, Request{Domain: "vm1", Dir: filepath.Join(t.TempDir(), "out"), Undo: func() error {
		t.Error("something was undone")
		return nil
	}})
	if err == nil {
		t.Error("a cancelled restore succeeded")
	}
}

func TestModeOfDirectories(t *testing.T) {
	repo, _ := chainOf(t, 1, 1<<20, func(int) []int64 { return []int64{0} })
	for mode, want := range map[os.FileMode]os.FileMode{0: 0o700, 0o711: 0o711} {
		dir := filepath.Join(t.TempDir(), "a", "b")
		if _, err := Run(t.Context(), repo, Request{Domain: "vm1", Dir: dir, DirMode: mode}); err != nil {
			t.Fatal(err)
		}
		for _, made := range []string{dir, filepath.Dir(dir)} {
			if info, err := os.Stat(made); err != nil || info.Mode().Perm() != want {
				t.Errorf("%s: %v, %v, want %v", made, info.Mode(), err, want)
			}
		}
	}
}
