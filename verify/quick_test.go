package verify

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/repository"
)

// A quick run reads no data, finds what is wrong with all else, and never counts as verified.
func TestQuick(t *testing.T) {
	whole := site(t)
	taken := readRanges(t)
	report := verified(t, whole, Request{Quick: true})
	for path, read := range taken() {
		tables, _ := tablesOf(t, path)
		for at := read.Next(0); at >= 0; at = read.Next(at + 1) {
			if !tables.Has(at) {
				t.Errorf("%s: range %d is read, which is data", path, at)
			}
		}
		if read.Len() != tables.Len() {
			t.Errorf("%s: %d of %d ranges with tables read", path, read.Len(), tables.Len())
		}
	}
	if got := outcome(report.Domains[0]); report.Err() != nil || got != "check1 quick, check2 quick, check3 quick, diff4 quick, copy5 quick" || len(report.Domains[0].Restores) > 0 {
		t.Errorf("%s, %v, %+v", got, report.Err(), report.Domains[0].Restores)
	}
	if _, err := os.Stat(filepath.Join(whole.Dir(), "vm1", repository.VerifiedName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something was noted: %v", err)
	}
	image := func(r *repository.Repository) string { return filepath.Join(r.PointDir("vm1", "check2"), "vda.qcow2") }
	data, err := os.ReadFile(image(whole))
	if err != nil {
		t.Fatal(err)
	}
	h, err := qcow2.ReadHeader(strings.NewReader(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	entry := func(at int64) int64 { return qcow2.TableOffset(binary.BigEndian.Uint64(data[at:])) }
	l2, block := entry(h.L1Offset), entry(h.RefcountTableOffset)
	withoutQemuImg(t) // our part alone finds all of this
	in := func(file string) func(*repository.Repository) string {
		return func(r *repository.Repository) string { return filepath.Join(r.PointDir("vm1", "check2"), file) }
	}
	for name, tt := range map[string]struct {
		file  func(*repository.Repository) string
		spoil func(path string) error
		found bool
	}{
		"header":         {image, func(p string) error { return flip(p, 300) }, true},
		"L1 table":       {image, func(p string) error { return flip(p, h.L1Offset+7) }, true},
		"L2 table":       {image, func(p string) error { return flip(p, l2+cluster-1) }, true},
		"refcount table": {image, func(p string) error { return flip(p, h.RefcountTableOffset+100) }, true},
		"refcount block": {image, func(p string) error { return flip(p, block+cluster-1) }, true},
		"truncated":      {image, func(p string) error { return os.Truncate(p, int64(len(data))-1) }, true},
		"appended":       {image, func(p string) error { return os.Truncate(p, int64(len(data))+1) }, true},
		"image missing":  {image, os.Remove, true},
		"list missing":   {in("vda.hashes"), os.Remove, true},
		"list":           {in("vdb.hashes"), func(p string) error { return flip(p, 100) }, true},
		"domain.xml":     {in("domain.xml"), func(p string) error { return flip(p, 1) }, true},
		"xml missing":    {in("domain.xml"), os.Remove, true},
		"manifest":       {in("manifest.json"), func(p string) error { return flip(p, 50) }, true},
		"data":           {image, func(p string) error { return flip(p, dataOf(t, p)) }, false}, // what only reading it finds
	} {
		r := copyOf(t, whole)
		path := tt.file(r)
		if err := tt.spoil(path); err != nil {
			t.Fatal(err)
		}
		report := verified(t, r, Request{Quick: true})
		if found := len(report.Damage) == 1 && report.Damage[0].File == filepath.Join("vm1/check2", filepath.Base(path)); found != tt.found || !found && len(report.Damage) > 0 {
			t.Errorf("%s: %v", name, report.Damage)
		}
		var damaged *DamagedError
		if err := report.Err(); errors.As(err, &damaged) && (strings.Contains(err.Error()+damaged.Hint(), "that restores") || strings.Contains(err.Error(), "still restores")) {
			t.Errorf("%s: a quick run says what it does not know: %v, %s", name, err, damaged.Hint())
		}
		for id, v := range r.Verified("vm1") {
			if v.Sound {
				t.Errorf("%s: %s is noted as verified", name, id)
			}
		}
		if doubts, lost := r.Doubts("vm1"), len(report.Damage) > 0 && len(report.Damage[0].Breaks) > 1; (len(doubts) > 0) != lost {
			t.Errorf("%s: doubts %v, breaks %v", name, doubts, report.Damage)
		}
	}
}

// A quick run takes back nothing of what others have found.
func TestQuickTakesNoDoubtBack(t *testing.T) {
	withoutQemuImg(t)
	r := site(t)
	path := filepath.Join(r.PointDir("vm1", "check1"), "domain.xml")
	if err := flip(path, 1); err != nil {
		t.Fatal(err)
	}
	verified(t, r, Request{})
	if err := flip(path, 1); err != nil {
		t.Fatal(err)
	}
	record(t, r, func(before string) string {
		verified(t, r, Request{Quick: true})
		after, err := os.ReadFile(filepath.Join(r.Dir(), "vm1", repository.VerifiedName))
		if err != nil || string(after) != before {
			t.Errorf("before %s\nafter %s, %v", before, after, err)
		}
		return before
	})
	if noted := r.Verified("vm1")["check1"]; noted.Sound || noted.Manifest == "" {
		t.Errorf("noted %+v", noted)
	}
	verified(t, r, Request{Sample: 1})
	if noted := r.Verified("vm1"); !noted["check1"].Sound {
		t.Errorf("a sample has noted %+v", noted["check1"])
	}
}
