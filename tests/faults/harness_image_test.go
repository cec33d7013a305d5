package faults

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/lineage"
)

// image is a file system after a power cut: content by path below its root,
// directories with a slash at the end.
type image map[string][]byte

func (d *stable) cut(r remains) image {
	m := image{}
	d.top.cutInto(m, "", r)
	return m
}

func (n *inode) cutInto(m image, path string, r remains) {
	if !n.isDir() {
		m[path] = n.cutData(r)
		return
	}
	m[path+"/"] = nil
	names := n.cutNames(r)
	sorted := make([]string, 0, len(names))
	for name := range names {
		sorted = append(sorted, name)
	}
	slices.Sort(sorted) // so that a seed repeats it
	for _, name := range sorted {
		names[name].cutInto(m, path+"/"+name, r)
	}
}

// points are the directories below that of a domain that are listed as points.
func (m image) points(domain string) (found []string) {
	for path := range m {
		name, ok := strings.CutPrefix(path, domain+"/")
		if name, dir := strings.CutSuffix(name, "/"); ok && dir && name != "" && !strings.Contains(name, "/") && name[0] != '.' {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	return found
}

// torn compares a directory with what it should hold, and says what is wrong.
func (m image) torn(whole image, dir string) error {
	for path, want := range whole {
		if !strings.HasPrefix(path, dir+"/") {
			continue
		}
		got, ok := m[path]
		if !ok {
			return fmt.Errorf("%s is missing", path)
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("%s is torn", path)
		}
	}
	for path := range m {
		if _, ok := whole[path]; !ok && strings.HasPrefix(path, dir+"/") {
			return fmt.Errorf("%s should not be there", path)
		}
	}
	return nil
}

// save writes it to a real directory.
func (m image) save(t *testing.T, dir string) {
	t.Helper()
	for path, data := range m {
		full := filepath.Join(dir, path)
		if strings.HasSuffix(path, "/") {
			if err := os.MkdirAll(full, 0o700); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(full), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// below is what is in a directory, without the note that hides a point, and without a note
// that is being written.
func (m image) below(dir string) image {
	files := image{}
	for path, data := range m {
		if name, ok := strings.CutPrefix(path, dir+"/"); ok && name != "" && !strings.HasSuffix(name, lineage.RemovedName) {
			files[name] = data
		}
	}
	return files
}

func (m image) clone() image {
	other := image{}
	for path, data := range m {
		other[path] = bytes.Clone(data)
	}
	return other
}

// equals compares images. What was the same a moment ago is not compared again: with the race
// detector that takes long.
type equals map[[2]*byte]bool

func (known equals) same(a, b image) bool {
	for path, data := range a {
		if other, ok := b[path]; !ok || !known.sameData(data, other) {
			return false
		}
	}
	return len(a) == len(b)
}

func (known equals) sameData(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	if len(a) == 0 {
		return true
	}
	pair := [2]*byte{&a[0], &b[0]}
	if pair[0] == pair[1] || known[pair] {
		return true
	}
	if !bytes.Equal(a, b) {
		return false
	}
	if len(known) > 100 { // they keep the data in memory
		clear(known)
	}
	known[pair] = true
	return true
}

// tree is the durable tree of an image. It has the same data, not a copy: what is sealed is
// never written to, and to compare it costs nothing.
func (m image) tree() *inode {
	top := newDir()
	for _, path := range m.names() { // a directory before what is in it
		dir, name := top, strings.Trim(path, "/")
		for {
			first, rest, below := strings.Cut(name, "/")
			if !below {
				break
			}
			dir, name = dir.now[first], rest
		}
		if name == "" {
			continue
		}
		child := &inode{sure: m[path], size: int64(len(m[path]))}
		if strings.HasSuffix(path, "/") {
			child = newDir()
		}
		dir.names[name], dir.now[name] = child, child
	}
	return top
}

func (m image) names() (all []string) {
	for name := range m {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}
