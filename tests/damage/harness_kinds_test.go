package damage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

func eachImage(s *testsite.Site, do func(id, target string)) {
	for _, p := range s.Points {
		for _, d := range p.Disks {
			do(p.ID, d.Target)
		}
	}
}

// flippedImages are images with a byte of each kind of region flipped.
func flippedImages(s *testsite.Site) (cases []spoiling) {
	eachImage(s, func(id, target string) {
		for name, at := range regions(s.T, filepath.Join(s.Repo, s.Name, id, target+".qcow2")) {
			cases = append(cases, spoiling{name: fmt.Sprintf("%s of %s/%s.qcow2 at %d flipped", name, id, target, at), lost: below[id],
				spoil: func(b *bed) error { flipByte(b.T, b.path(id, target+".qcow2"), at); return nil }})
		}
	})
	return cases
}

// regions finds a byte of each kind in an image.
func regions(t *testing.T, path string) map[string]int64 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, err := qcow2.ReadHeader(f)
	if err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	entry := func(at int64) int64 {
		var b [8]byte
		if _, err := f.ReadAt(b[:], at); err != nil {
			t.Fatal(err)
		}
		return int64(binary.BigEndian.Uint64(b[:]) & 0x00fffffffffffe00)
	}
	l2 := entry(h.L1Offset)
	m := map[string]int64{
		"magic": 0, "version": 7, "virtual size": 31, "L1 offset": 46, "features": 79, "extension": 116, "rest of the header": 5000,
		"L1": h.L1Offset + 6, "L1 flags": h.L1Offset, "refcount table": h.RefcountTableOffset + 5, "refcounts": entry(h.RefcountTableOffset) + 1,
		"L2": l2 + 13, "L2 flags": l2, "last byte": info.Size() - 1, "middle": info.Size() / 2,
	}
	for at := l2; at < l2+int64(h.ClusterSize); at += 8 {
		if data := entry(at); data != 0 {
			m["data"] = data + 77
			break
		}
	}
	if h.BackingFile != "" {
		m["backing name"] = 140
	}
	return m
}

// small are the files of a point other than its images.
var small = []string{"manifest.json", "domain.xml", "checkpoint.xml", "vda.hashes", "vdb.hashes"}

// lostWith is what is lost when a file is damaged, whatever the damage.
func lostWith(id, file string) []string {
	switch {
	case strings.HasSuffix(file, ".qcow2"), file == "manifest.json":
		return below[id]
	case file == "domain.xml":
		return []string{id}
	}
	return nil
}

func has(s *testsite.Site, id, file string) bool {
	_, err := os.Lstat(filepath.Join(s.Repo, s.Name, id, file))
	return err == nil
}

// flippedFiles are the small files with some bytes flipped; everyByte tries all.
func flippedFiles(s *testsite.Site) (cases []spoiling) {
	for _, id := range allPoints {
		for _, file := range small {
			if !has(s, id, file) {
				continue
			}
			for _, at := range []int64{24, 50} {
				cases = append(cases, spoiling{name: fmt.Sprintf("byte %d of %s/%s flipped", at, id, file), lost: lostWith(id, file),
					spoil: func(b *bed) error { flipByte(b.T, b.path(id, file), at); return nil }})
			}
		}
	}
	return cases
}

func allFiles(s *testsite.Site, do func(id, file string)) {
	for _, id := range allPoints {
		for _, file := range append([]string{"vda.qcow2", "vdb.qcow2"}, small...) {
			if has(s, id, file) {
				do(id, file)
			}
		}
	}
}

func truncated(s *testsite.Site) (cases []spoiling) {
	allFiles(s, func(id, file string) {
		cuts := []func(int64) int64{func(n int64) int64 { return n / 2 }, func(int64) int64 { return 0 }, func(n int64) int64 { return n - 1 }}
		if !strings.HasSuffix(file, ".qcow2") && id != "check2" {
			cuts = cuts[:1]
		}
		for _, cut := range cuts {
			cases = append(cases, spoiling{name: fmt.Sprintf("%s/%s truncated", id, file), lost: lostWith(id, file), spoil: func(b *bed) error {
				info, err := os.Stat(b.path(id, file))
				if err != nil {
					return err
				}
				return os.Truncate(b.path(id, file), cut(info.Size()))
			}})
		}
		lost := lostWith(id, file)
		if strings.HasSuffix(file, ".qcow2") {
			lost = nil // nothing reads what follows the image
		}
		cases = append(cases, spoiling{name: fmt.Sprintf("%s/%s longer", id, file), lost: lost, spoil: func(b *bed) error {
			f, err := os.OpenFile(b.path(id, file), os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				return err
			}
			_, err = f.Write([]byte("more"))
			return errors.Join(err, f.Close())
		}})
	})
	return cases
}

func removed(s *testsite.Site) (cases []spoiling) {
	allFiles(s, func(id, file string) {
		cases = append(cases, spoiling{name: fmt.Sprintf("%s/%s removed", id, file), lost: lostWith(id, file),
			spoil: func(b *bed) error { return os.Remove(b.path(id, file)) }})
	})
	for _, id := range []string{"check1", "check2"} {
		cases = append(cases,
			spoiling{name: id + " removed", lost: below[id][1:], atLeast: true, spoil: func(b *bed) error { return os.RemoveAll(b.path(id)) }},
			spoiling{name: id + " set aside", lost: below[id][1:], atLeast: true, spoil: func(b *bed) error { return os.Rename(b.path(id), b.path(".partial-"+id)) }},
			spoiling{name: id + " renamed", lost: below[id][1:], atLeast: true, spoil: func(b *bed) error { return os.Rename(b.path(id), b.path("check77")) }},
			spoiling{name: id + " is a file", lost: below[id], spoil: func(b *bed) error {
				return errors.Join(os.RemoveAll(b.path(id)), os.WriteFile(b.path(id), nil, 0o600))
			}})
	}
	return cases
}

// swapped are files, and points, in each other's place.
func swapped(s *testsite.Site) (cases []spoiling) {
	union := func(a, b []string) []string {
		return slices.DeleteFunc(slices.Clone(allPoints), func(id string) bool { return !slices.Contains(a, id) && !slices.Contains(b, id) })
	}
	swap := func(name string, lost []string, atLeast bool, pairs ...[2]string) {
		cases = append(cases, spoiling{name: name + " swapped", lost: lost, atLeast: atLeast, spoil: func(b *bed) error {
			for _, p := range pairs {
				one, two, aside := b.path(p[0]), b.path(p[1]), b.path(".aside")
				if err := errors.Join(os.Rename(one, aside), os.Rename(two, one), os.Rename(aside, two)); err != nil {
					return err
				}
			}
			return nil
		}})
	}
	for i, one := range allPoints {
		for _, two := range allPoints[i+1:] {
			both := union(below[one], below[two])
			swap(one+" and "+two, both, false, [2]string{one, two})
			for _, file := range append([]string{"vda.qcow2", "vdb.qcow2"}, small...) {
				if has(s, one, file) && has(s, two, file) {
					// Swapping equal files is no damage.
					a, _ := os.ReadFile(filepath.Join(s.Repo, s.Name, one, file))
					b, _ := os.ReadFile(filepath.Join(s.Repo, s.Name, two, file))
					if !bytes.Equal(a, b) {
						swap(one+"/"+file+" and "+two+"'s", union(lostWith(one, file), lostWith(two, file)), false, [2]string{one + "/" + file, two + "/" + file})
					}
				}
			}
			swap("images and hash lists of "+one+" and "+two, both, false, [2]string{one + "/vda.qcow2", two + "/vda.qcow2"}, [2]string{one + "/vda.hashes", two + "/vda.hashes"})
		}
		swap("disks of "+one, below[one], false, [2]string{one + "/vda.qcow2", one + "/vdb.qcow2"})
		swap("disks and hash lists of "+one, below[one], false, [2]string{one + "/vda.qcow2", one + "/vdb.qcow2"}, [2]string{one + "/vda.hashes", one + "/vdb.hashes"})
	}
	return cases
}

// links are files and directories replaced by links that lead outside, and by other things
// that are no files.
func links(s *testsite.Site) (cases []spoiling) {
	outside := func(b *bed, path string) error {
		moved := filepath.Join(b.outside, "moved")
		return errors.Join(os.RemoveAll(moved), os.Rename(path, moved), os.Symlink(moved, path))
	}
	allFiles(s, func(id, file string) {
		if id == "check1" || id == "diff4" {
			cases = append(cases,
				spoiling{name: fmt.Sprintf("%s/%s is a link", id, file), lost: lostWith(id, file), spoil: func(b *bed) error { return outside(b, b.path(id, file)) }},
				spoiling{name: fmt.Sprintf("%s/%s is a directory", id, file), lost: lostWith(id, file), spoil: func(b *bed) error {
					return errors.Join(os.Remove(b.path(id, file)), os.Mkdir(b.path(id, file), 0o700))
				}},
				spoiling{name: fmt.Sprintf("%s/%s is a pipe", id, file), lost: lostWith(id, file), spoil: func(b *bed) error {
					return errors.Join(os.Remove(b.path(id, file)), unix.Mkfifo(b.path(id, file), 0o600))
				}})
		}
	})
	for _, id := range allPoints {
		cases = append(cases, spoiling{name: id + " is a link", lost: below[id], spoil: func(b *bed) error { return outside(b, b.path(id)) }})
	}
	return append(cases, spoiling{name: "the domain is a link", lost: allPoints, spoil: func(b *bed) error { return outside(b, b.path()) }})
}
