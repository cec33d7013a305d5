package prune

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/diskspace"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testfs"
)

// What does not fit is hidden, said with the numbers, and merged when there is room.
func TestPruneWithoutSpace(t *testing.T) {
	w := newWorldIn(t, testfs.Ext4(t, 24<<20))
	w.disks["vda"] = make([]byte, 128*cluster)
	w.write("vda", 1, sequence(96)...)
	id := w.point(manifest.KindFull, "")
	for i := range 4 {
		w.write("vda", byte(10+i), sequence(12)...)
		id = w.point(manifest.KindInc, id)
	}
	ballast := filepath.Join(w.repo.Dir(), "ballast")
	fill(t, ballast, 2<<20)
	r := w.prune(last(1)) // the full and all: 6 MiB; the incs alone: 768 KiB
	if len(r.Merged) != 1 || fmt.Sprint(r.Merged[0].From) != "[check2 check3 check4]" {
		t.Errorf("merged: %+v", r.Merged)
	}
	r = w.prune(compact(last(1)))
	if len(r.Merged) != 0 || len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "that needs 7.") || !strings.Contains(r.Held[0].By, "is free") {
		t.Errorf("without space: %+v", r)
	}
	w.check()
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if r = w.prune(compact(last(1))); len(r.Merged) != 1 || len(r.Held) > 0 {
		t.Errorf("with space: %+v", r)
	}
	w.check()
}

// A full file system has no room for the note that a point is hidden: what nobody needs goes
// first.
func TestPruneOfAFullRepository(t *testing.T) {
	w := newWorldIn(t, testfs.Ext4(t, 12<<20))
	w.nights(3)
	w.write("vda", 1, 0, 1, 2, 3, 4, 5, 6, 7)
	w.point(manifest.KindFull, "")
	fill(t, filepath.Join(w.repo.Dir(), "ballast"), 0)
	r := w.prune(last(1))
	if got := w.listed() + " | " + w.hidden(); got != "check4 | " || fmt.Sprint(r.Hidden) != "[check1 check2 check3]" {
		t.Errorf("listed and hidden: %s; %+v", got, r)
	}
}

func sequence(n int) (numbers []int) {
	for i := range n {
		numbers = append(numbers, i)
	}
	return numbers
}

// fill writes a file until so much is free.
func fill(t *testing.T, path string, free int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for {
		left, _, err := diskspace.Free(filepath.Dir(path), true)
		if err != nil {
			t.Fatal(err)
		}
		if left <= free {
			break
		}
		if _, err := f.Write(make([]byte, min(1<<20, left-free))); err != nil {
			break // full
		}
	}
	if err := f.Sync(); err != nil && free > 0 {
		t.Fatal(err)
	}
}

// A full file system has no room for a synthetic full either.
func TestMaterialiseWithoutSpace(t *testing.T) {
	w := newWorldIn(t, testfs.Ext4(t, 12<<20))
	w.nights(3)
	fill(t, filepath.Join(w.repo.Dir(), "ballast"), 0)
	before := w.tree()
	_, err := Materialise(context.Background(), w.repo, "vm1", "check3", Options{})
	if !localfile.IsFull(err) && (err == nil || !strings.Contains(err.Error(), "that needs")) {
		t.Errorf("%v", err)
	}
	if w.tree() != before {
		t.Error("something has changed")
	}
}

// bigNights makes a full of 64 MiB, and incs that supersede some of it.
func (w *world) bigNights() (id string) {
	w.disks["vda"] = make([]byte, 1024*cluster)
	for c := range 1024 {
		w.write("vda", byte(c%250+1), c)
	}
	id = w.point(manifest.KindFull, "")
	for i := range 3 {
		for c := range 100 {
			w.write("vda", byte(i+1), i*50+c)
		}
		w.write("vda", 0, 900+i) // a zero cluster frees what is below it
		id = w.point(manifest.KindInc, id)
	}
	return id
}

// free is what the file system of the repository has, in bytes.
func (w *world) free() int64 {
	w.t.Helper()
	unix.Sync()
	var s unix.Statfs_t
	if err := unix.Statfs(w.repo.Dir(), &s); err != nil {
		w.t.Fatal(err)
	}
	return int64(s.Bfree) * s.Bsize
}

// wantFreed compares what was reported with what is free now.
func (w *world) wantFreed(before, reported int64) {
	w.t.Helper()
	off := func() bool { return max(w.free()-before-reported, reported-w.free()+before) > freedTolerance }
	for end := time.Now().Add(10 * time.Second); off() && time.Now().Before(end); { // XFS frees in the background
		time.Sleep(10 * time.Millisecond)
	}
	if off() {
		w.t.Errorf("%d bytes are free that were not; %d were reported", w.free()-before, reported)
	}
}
