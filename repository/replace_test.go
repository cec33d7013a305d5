package repository

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/description"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/lineage"
	"github.com/virtbackup/virtbackup/manifest"
)

// beginMerge builds a point anew, on another parent ("" is none), all but its manifest.
func beginMerge(t testing.TB, l *Lock, id, parent string) (*Replacement, manifest.Manifest) {
	t.Helper()
	m, err := l.Repository().readManifest(l.Domain(), id)
	must(t, err)
	p, err := l.BeginReplacement(m)
	must(t, err)
	m.Merged, m.Parent = append(m.Merged, m.Parent), parent
	if m.Disks = slices.Clone(m.Disks); parent == "" {
		m.Kind = manifest.KindFull
	}
	for i := range m.Disks {
		d := &m.Disks[i]
		d.Kind, d.Parent = manifest.KindFull, ""
		if parent != "" {
			d.Kind, d.Parent = manifest.KindInc, manifest.ParentPath(parent, d.Image)
		}
		im, err := p.CreateImage(d.Target, directio.Auto)
		must(t, err)
		writeTestImage(t, im, *d)
		_, _, err = im.Finish()
		must(t, err)
	}
	must(t, p.KeepFiles())
	return p, m
}

func mustMerge(t testing.TB, l *Lock, id, parent string) {
	t.Helper()
	p, m := beginMerge(t, l, id, parent)
	must(t, p.Complete(m), p.Exchange(context.Background(), 0), p.RemoveOld(), p.Discard())
}

// A merged point shows the same instant, its children still find it, and what it needed can
// be removed.
func TestReplace(t *testing.T) {
	r, l := chainOfDisks(t, 4)
	before, err := r.Point("vm1", "check3")
	must(t, err)
	mustHide(t, l, "check2")
	mustMerge(t, l, "check3", "check1")
	m, err := r.Point("vm1", "check3")
	must(t, err)
	one, err := r.Point("vm1", "check1")
	must(t, err)
	if m.Parent != "check1" || m.ParentIdentity != one.Identity || !m.ParentTime.Equal(one.Time) || !slices.Equal(m.Merged, []string{"check2"}) {
		t.Errorf("merged: %+v", m)
	}
	if m.Identity != before.Identity || !m.Time.Equal(before.Time) || m.Files[manifest.DomainXML] != before.Files[manifest.DomainXML] {
		t.Errorf("%+v is not %+v", m, before)
	}
	must(t, l.RemovePoints([]string{"check2"}, nil))
	for _, id := range []string{"check1", "check3", "check4"} {
		wantWhole(t, r, id)
	}
	mustHide(t, l, "check1")
	mustMerge(t, l, "check3", "")
	must(t, l.RemovePoints([]string{"check1"}, nil))
	for _, id := range []string{"check3", "check4"} {
		wantWhole(t, r, id)
	}
	if m, err := r.Point("vm1", "check3"); err != nil || m.Kind != manifest.KindFull || m.ParentIdentity != "" || !m.ParentTime.IsZero() {
		t.Errorf("standalone: %+v, %v", m, err)
	}
	if _, err := r.ReadFile(m, manifest.DomainXML); err != nil {
		t.Error(err)
	}
	if left, err := l.Leftovers(); err != nil || len(left) != 0 {
		t.Errorf("left over: %q, %v", left, err)
	}
}

// A process that dies after any step leaves the old point whole or the new one, and what is
// left over is in nobody's way.
func TestDeathAfterEachStepOfReplace(t *testing.T) {
	whole, l := chainOfDisks(t, 4)
	mustHide(t, l, "check2")
	for died := range 5 {
		r := copyOf(t, whole)
		l := mustLock(t, r, "vm1")
		p, m := beginMerge(t, l, "check3", "check1")
		for _, step := range []func() error{
			func() error { return p.Complete(m) },
			func() error { return p.exchange(func() error { return nil }) },
			p.syncDomain,
			p.RemoveOld,
		}[:died] {
			must(t, step())
		}
		for _, id := range []string{"check1", "check3", "check4"} {
			wantWhole(t, r, id)
		}
		wantIDs(t, r, "check1", "check3", "check4")
		if m, err := r.Point("vm1", "check3"); err != nil || (m.Parent == "check1") != (died >= 2) {
			t.Errorf("after step %d: on %s, %v", died, m.Parent, err)
		}
		if n := next(t, l); n != 5 {
			t.Errorf("after step %d: next number %d", died, n)
		}
		left, err := l.Leftovers()
		if err != nil || (len(left) == 0) != (died == 4) || len(left) > 0 && !slices.Equal(left, []string{".partial-merge-check3"}) {
			t.Errorf("after step %d: left over %q, %v", died, left, err)
		}
		for _, name := range left {
			must(t, l.RemoveLeftover(name))
		}
		mustMerge(t, l, "check3", "check1")
		must(t, l.RemovePoints([]string{"check2"}, nil))
		wantWhole(t, r, "check4")
	}
}

// What is left over of a merge has the number of its point, which is not used again.
func TestNextNumberBesideAMerge(t *testing.T) {
	r, l := chainOfDisks(t, 3)
	m, err := r.Point("vm1", "check3")
	must(t, err)
	_, err = l.BeginReplacement(m)
	must(t, err, os.RemoveAll(r.PointDir("vm1", "check3")))
	if n := next(t, l); n != 4 {
		t.Errorf("next number %d", n)
	}
}

// An error or a panic behind the exchange takes it back.
func TestExchangeIsTakenBack(t *testing.T) {
	r, l := chainOfDisks(t, 3)
	mustHide(t, l, "check2")
	p, m := beginMerge(t, l, "check3", "check1")
	must(t, p.Complete(m))
	merged := func(sync func() error) error {
		return panics.Catch(func() error {
			return p.exchange(func() error {
				if m, err := r.Point("vm1", "check3"); err != nil || m.Parent != "check1" {
					t.Errorf("in between: on %s, %v", m.Parent, err)
				}
				return sync()
			})
		})
	}
	for what, err := range map[string]error{"error": merged(done), "bug": merged(func() error { panic("x") })} {
		if err == nil || fail.Is(err, fail.Bug) != (what == "bug") {
			t.Errorf("%s: %v", what, err)
		}
		if m, err := r.Point("vm1", "check3"); err != nil || m.Parent != "check2" {
			t.Errorf("%s: on %s, %v", what, m.Parent, err)
		}
	}
	must(t, p.Discard())
	wantWhole(t, r, "check3")
	if left, err := l.Leftovers(); err != nil || len(left) != 0 {
		t.Errorf("left over: %q, %v", left, err)
	}
}

// Discard leaves the point as it was, before the exchange and after it.
func TestDiscardOfAReplacement(t *testing.T) {
	r, l := chainOfDisks(t, 2)
	p, _ := beginMerge(t, l, "check2", "")
	must(t, p.Discard(), p.Discard())
	if m, err := r.Point("vm1", "check2"); err != nil || m.Parent != "check1" {
		t.Errorf("on %s, %v", m.Parent, err)
	}
	for what, err := range map[string]error{"Complete": p.Complete(manifest.Manifest{}), "Exchange": p.Exchange(context.Background(), 0)} {
		if err == nil || !strings.Contains(err.Error(), "closed") {
			t.Errorf("%s: %v", what, err)
		}
	}
	p, m := beginMerge(t, l, "check2", "")
	must(t, p.Complete(m), p.Exchange(context.Background(), 0), p.Discard())
	wantWhole(t, r, "check2")
	if p.Exchange(context.Background(), 0) == nil {
		t.Error("exchanged back")
	}
	if m, err := r.Point("vm1", "check2"); err != nil || m.Parent != "" {
		t.Errorf("on %s, %v", m.Parent, err)
	}
}

// A hidden point may be built anew, too, and stays hidden.
func TestExchangeOfAHiddenPoint(t *testing.T) {
	r, l := chainOfDisks(t, 2)
	must(t, l.Hide("check2", "policy"))
	p, m := beginMerge(t, l, "check2", "")
	must(t, p.Complete(m), p.Exchange(context.Background(), 0), p.RemoveOld())
	_, err := r.Point("vm1", "check2")
	var hidden *lineage.HiddenError
	if !errors.As(err, &hidden) || hidden.Removal.Reason != "policy" {
		t.Errorf("%v", err)
	}
	if m, err := r.readManifest("vm1", "check2"); err != nil || m.Parent != "" {
		t.Errorf("parent %q, %v", m.Parent, err)
	}
	// Listed again while it is built anew, it would be hidden by the exchange.
	lineage, err := r.Lineage("vm1")
	must(t, err)
	m, _ = lineage.Point("check2")
	p, err = l.BeginReplacement(m)
	must(t, err, p.KeepDisk(m.Disks[0]), p.KeepDisk(m.Disks[1]), p.KeepFiles(), p.Complete(m), l.Unhide("check2"))
	if err := p.Exchange(context.Background(), 0); !errors.Is(err, errChanged) {
		t.Errorf("%v", err)
	}
	must(t, p.Discard())
}

// While somebody reads, nothing is exchanged; behind them it is.
func TestExchangeBesideReaders(t *testing.T) {
	r, l := chainOfDisks(t, 2)
	p, m := beginMerge(t, l, "check2", "")
	must(t, p.Complete(m))
	wantReaders(t, r.Read(context.Background(), "vm1", func() error { return p.Exchange(context.Background(), 0) }), "process")
	if m, err := r.Point("vm1", "check2"); err != nil || m.Parent != "check1" {
		t.Errorf("on %s, %v", m.Parent, err)
	}
	must(t, p.Exchange(context.Background(), 0), p.RemoveOld())
	wantWhole(t, r, "check2")
}

// Images of a format that older versions do not read are made in no repository that they open.
func TestReplaceRaisesTheFormat(t *testing.T) {
	r, l := chainOfDisks(t, 1)
	path := filepath.Join(r.Dir(), manifest.DescriptionName)
	mustWrite(t, path, `{"format": 1, "id": "`+r.ID()+`", "created": "2026-11-25T00:00:00Z"}`)
	m, err := r.Point("vm1", "check1")
	must(t, err)
	_, err = l.BeginReplacement(m)
	must(t, err)
	if d, err := description.Read(r.Dir()); err != nil || d.Format != manifest.Format || d.ID != r.ID() {
		t.Errorf("%+v, %v", d, err)
	}
	if moved, err := r.NotePlace(); err != nil || moved {
		t.Errorf("moved %v, %v", moved, err)
	}
}

// A disk that stays as it is keeps its files, and what the manifest says of them: hash lists
// of format 1 have other ranges.
func TestKeptDisks(t *testing.T) {
	r, l := chainOfDisks(t, 2)
	asFormat1(t, r, "check1")
	m, err := r.Point("vm1", "check1")
	must(t, err)
	p, err := l.BeginReplacement(m)
	must(t, err, p.KeepDisk(m.Disks[0]), p.KeepFiles())
	im, err := p.CreateImage("vdb", directio.Auto)
	must(t, err)
	writeTestImage(t, im, m.Disks[1])
	_, _, err = im.Finish()
	must(t, err)
	inode := func(name string) os.FileInfo {
		info, err := os.Stat(filepath.Join(r.PointDir("vm1", "check1"), name))
		must(t, err)
		return info
	}
	before := []os.FileInfo{inode("vda.qcow2"), inode("vda.hashes"), inode(manifest.DomainXML)}
	must(t, p.Complete(m), p.Exchange(context.Background(), 0), p.RemoveOld())
	for i, name := range []string{"vda.qcow2", "vda.hashes", manifest.DomainXML} {
		if !os.SameFile(before[i], inode(name)) {
			t.Errorf("%s is another file", name)
		}
	}
	after, err := r.Point("vm1", "check1")
	must(t, err)
	if !reflect.DeepEqual(after.Disks[0], m.Disks[0]) || after.Disks[0].HashRange != 0 || after.Disks[1].HashRange == 0 {
		t.Errorf("%+v, was %+v", after.Disks, m.Disks)
	}
	wantWhole(t, r, "check1")
	wantWhole(t, r, "check2")
}

// AddDisk takes over files that were written by others.
func TestAddDisk(t *testing.T) {
	r, l := chainOfDisks(t, 1)
	m, err := r.Point("vm1", "check1")
	must(t, err)
	p, err := l.BeginReplacement(m)
	must(t, err, p.KeepFiles())
	for _, d := range m.Disks {
		for _, name := range []string{d.Image, d.HashesFile()} {
			data, err := os.ReadFile(filepath.Join(r.PointDir("vm1", "check1"), name))
			must(t, err, localfile.Write(filepath.Join(p.Dir(), name), data))
		}
		p.AddDisk(d.Target, d.Hashes, d.ImageBytes)
	}
	must(t, p.Complete(m), p.Exchange(context.Background(), 0), p.RemoveOld())
	wantWhole(t, r, "check1")
}

// Those who list points while others are merged and removed never see damage, and never a
// hidden point among the listed ones.
func TestLineageBesideMerges(t *testing.T) {
	r, l := chainOfDisks(t, 1)
	var highestHidden, looks atomic.Int64 // of the numbers, all that are lower are hidden, too
	var over atomic.Bool
	var reading sync.WaitGroup
	look := func() error {
		hidden := int(highestHidden.Load())
		lineage, err := r.Lineage("vm1")
		if err != nil {
			return err
		}
		if broken := lineage.Broken(); len(lineage.Unreadable)+len(lineage.BadRemovals)+len(broken) > 0 {
			return fmt.Errorf("looks damaged: %+v, %+v, %v", lineage.Unreadable, lineage.BadRemovals, broken)
		}
		if first := lineage.Points[0]; first.Number() <= hidden {
			return fmt.Errorf("%s is listed, and check%d was hidden before", first.ID, hidden)
		}
		_, err = r.Point("vm1", fmt.Sprintf("check%d", hidden))
		if !errors.Is(err, manifest.ErrNoPoint) && hidden > 0 {
			return fmt.Errorf("check%d, which is hidden: %v", hidden, err)
		}
		looks.Add(1)
		return nil
	}
	for range 2 {
		reading.Go(func() {
			for !over.Load() {
				if err := look(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	last := "check1"
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
		lineage, err := r.Lineage("vm1")
		must(t, err)
		gone := lineage.IDs()
		n := next(t, l)
		for _, id := range checks(n + 2)[n-1:] { // three nights; the first of them is kept
			makePoint(t, l, point{id: id, kind: manifest.KindInc, parent: last, targets: []string{"vda"}})
			last = id
		}
		mustHide(t, l, gone...)
		highestHidden.Store(int64(n - 1))
		mustMerge(t, l, checks(n)[n-1], "")
		must(t, l.RemovePoints(gone, nil))
	}
	over.Store(true)
	reading.Wait()
	if looks.Load() < 10 {
		t.Errorf("looked %d times only", looks.Load())
	}
}
