package faults

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// stable is a model of a file system that guarantees what POSIX does and no more: an fsync of
// a file makes its content durable, an fsync of a directory the names in it. Of everything
// else a power cut leaves any part, in any order: a change of a name or not, a write, some of
// its sectors, or nothing of it. Real file systems keep more.
type stable struct {
	t    *testing.T
	root string // path of the directory that it stands for
	top  *inode
}

type inode struct {
	sure    []byte   // durable content
	pending []change // of content or of names, in the order of the calls
	names   map[string]*inode
	now     map[string]*inode // as processes see them; nil for a file
	size    int64             // of a file, as processes see it
}

func (n *inode) isDir() bool { return n.now != nil }

// change is one that may or may not be on the disk. For content: data at an
// offset, or a new length. For names: what the names become.
type change struct {
	done   *bool // the call that made it has returned
	offset int64
	data   []byte
	length int64 // of the file from now on, at least or exactly; -1: data
	exact  bool
	name   string // added, with what
	child  *inode
	gone   string // removed
	swap   *swap
}

// swap is an exchange of two names of a directory: that of first becomes that of second.
type swap struct {
	names [2]string
	nodes [2]*inode
}

// holds tells whether the names are those of the files that are to be exchanged: either may
// have been lost.
func (s *swap) holds(names map[string]*inode) bool {
	return names[s.names[0]] == s.nodes[0] && names[s.names[1]] == s.nodes[1]
}

// load reads a directory; everything in it counts as durable.
func load(t *testing.T, root string) *stable {
	t.Helper()
	return &stable{t, root, loadNode(t, root)}
}

func loadNode(t *testing.T, path string) *inode {
	t.Helper()
	entries, err := os.ReadDir(path)
	if err != nil {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return &inode{sure: data, size: int64(len(data))}
	}
	n := newDir()
	for _, e := range entries {
		child := loadNode(t, filepath.Join(path, e.Name()))
		n.names[e.Name()], n.now[e.Name()] = child, child
	}
	return n
}

func newDir() *inode { return &inode{names: map[string]*inode{}, now: map[string]*inode{}} }

// find returns the inode that has that path now; nil if the path is outside or unused.
func (d *stable) find(path string) *inode {
	rest, ok := strings.CutPrefix(path, d.root)
	if !ok || rest != "" && rest[0] != '/' {
		return nil
	}
	n := d.top
	for _, name := range strings.Split(strings.Trim(rest, "/"), "/") {
		if name == "" {
			continue
		}
		if n = n.now[name]; n == nil {
			return nil
		}
	}
	return n
}

// Each of these is called when a call begins, and returns what to do when it has
// succeeded.

func (d *stable) create(path string, dir bool) {
	parent, name := d.find(filepath.Dir(path)), filepath.Base(path)
	if parent == nil || parent.now[name] != nil {
		return
	}
	child := &inode{}
	if dir {
		child = newDir()
	}
	parent.now[name] = child
	parent.add(change{name: name, child: child, done: yes()})
}

func (n *inode) add(c change) { n.pending = append(n.pending, c) }

func yes() *bool { b := true; return &b }

func (d *stable) write(path string, offset int64, data []byte) (returned func()) {
	n := d.find(path)
	if n == nil {
		return func() {}
	}
	c := change{offset: offset, data: data, length: -1, done: new(bool)}
	n.add(c)
	n.size = max(n.size, offset+int64(len(data)))
	return func() { *c.done = true }
}

// resize sets the length of a file, or makes it at least so long.
func (d *stable) resize(path string, length int64, exact bool) {
	n := d.find(path)
	if n == nil {
		return
	}
	n.add(change{length: length, exact: exact, done: yes()})
	if exact || length > n.size {
		n.size = length
	}
}

func (d *stable) remove(path string) {
	parent, name := d.find(filepath.Dir(path)), filepath.Base(path)
	if parent == nil || parent.now[name] == nil {
		return
	}
	delete(parent.now, name)
	parent.add(change{gone: name, done: yes()})
}

// rename is one change of one directory: it is there whole, or not at all.
func (d *stable) rename(from, to string) {
	parent := d.find(filepath.Dir(from))
	if parent == nil {
		return
	}
	if filepath.Dir(from) != filepath.Dir(to) {
		d.t.Fatalf("rename from %s to %s: the model renames within a directory only", from, to)
	}
	child := parent.now[filepath.Base(from)]
	delete(parent.now, filepath.Base(from))
	parent.now[filepath.Base(to)] = child
	parent.add(change{gone: filepath.Base(from), name: filepath.Base(to), child: child, done: yes()})
}

// exchange swaps two names of one directory (renameat2(2), RENAME_EXCHANGE): that is one
// change, too.
func (d *stable) exchange(a, b string) {
	parent := d.find(filepath.Dir(a))
	if parent == nil {
		return
	}
	if filepath.Dir(a) != filepath.Dir(b) {
		d.t.Fatalf("exchange of %s and %s: the model renames within a directory only", a, b)
	}
	s := &swap{names: [2]string{filepath.Base(a), filepath.Base(b)}}
	s.nodes = [2]*inode{parent.now[s.names[0]], parent.now[s.names[1]]}
	c := change{swap: s, done: yes()}
	c.rename(parent.now)
	parent.add(c)
}

// link gives a file another name (link(2)).
func (d *stable) link(from, to string) {
	child, parent := d.find(from), d.find(filepath.Dir(to))
	if child == nil || parent == nil {
		d.t.Fatalf("link of %s to %s: the model knows only one of them", from, to)
	}
	parent.now[filepath.Base(to)] = child
	parent.add(change{name: filepath.Base(to), child: child, done: yes()})
}

// clone makes length bytes of a file, from offset at on, what another one has at offset
// (ioctl_ficlonerange(2)); all of it where length is 0. It is a write of that data.
func (d *stable) clone(from string, offset, length int64, to string, at int64) {
	source := d.find(from)
	if source == nil || d.find(to) == nil {
		d.t.Fatalf("clone of %s to %s: the model knows only one of them", from, to)
	}
	data := slices.Clone(source.cutData(all{}))[offset:]
	if length > 0 {
		data = data[:min(length, int64(len(data)))]
	}
	d.write(to, at, data)()
}

// punch makes zeros of a part of a file, which keeps its length (fallocate(2)).
func (d *stable) punch(path string, offset, length int64) {
	if n := d.find(path); n != nil && offset < n.size {
		d.write(path, offset, make([]byte, min(length, n.size-offset)))()
	}
}

// sync makes durable, when the call returns, what was done when it began.
func (d *stable) sync(path string) (returned func()) {
	n := d.find(path)
	if n == nil {
		return func() {}
	}
	covered := 0
	for _, c := range n.pending {
		if !*c.done {
			break // what follows a write under way may be durable, but need not be
		}
		covered++
	}
	return func() {
		for _, c := range n.pending[:covered] {
			if n.isDir() {
				c.rename(n.names)
			} else {
				n.sure = c.apply(n.sure)
			}
		}
		n.pending = slices.Clone(n.pending[covered:])
	}
}

// apply changes content; data is changed in place where it is long enough.
func (c change) apply(data []byte) []byte {
	end := c.length
	if c.length < 0 {
		end = c.offset + int64(len(c.data))
	}
	if end > int64(len(data)) {
		data = append(data, make([]byte, end-int64(len(data)))...)
	}
	if c.exact {
		return data[:c.length]
	}
	copy(data[c.offset:], c.data)
	return data
}

func (c change) rename(names map[string]*inode) {
	if s := c.swap; s != nil {
		names[s.names[0]], names[s.names[1]] = s.nodes[1], s.nodes[0]
	}
	if c.gone != "" {
		delete(names, c.gone)
	}
	if c.name != "" {
		names[c.name] = c.child
	}
}

// remains chooses what a power cut leaves of what is not durable.
type remains interface {
	// kept returns what is left of a change; false where nothing is.
	kept(c change) (change, bool)
}

type nothing struct{}

func (nothing) kept(change) (change, bool) { return change{}, false }

type all struct{}

func (all) kept(c change) (change, bool) { return c, true }

// some keeps half of the changes, and of one write in four only some sectors.
type some struct{ *rand.Rand }

func (s some) kept(c change) (change, bool) {
	if s.IntN(2) == 0 {
		return c, false
	}
	if c.data != nil && s.IntN(4) == 0 {
		from := s.IntN(len(c.data)+511) / 512 * 512
		if from >= len(c.data) {
			return c, false
		}
		c.offset, c.data = c.offset+int64(from), c.data[from:]
	}
	return c, true
}

// cutNames are the names in a directory after a power cut.
func (n *inode) cutNames(r remains) map[string]*inode {
	names := map[string]*inode{}
	for name, child := range n.names {
		names[name] = child
	}
	for _, c := range n.pending {
		if c, ok := r.kept(c); ok {
			// A rename moves the file that has the name; that file may have been lost.
			if c.gone != "" && c.name != "" && names[c.gone] != c.child || c.swap != nil && !c.swap.holds(names) {
				continue
			}
			c.rename(names)
		}
	}
	return names
}

// cutData is the content of a file after a power cut.
func (n *inode) cutData(r remains) []byte {
	if len(n.pending) == 0 {
		return n.sure
	}
	data := slices.Clone(n.sure)
	for _, c := range n.pending {
		if c, ok := r.kept(c); ok {
			data = c.apply(data)
		}
	}
	return data
}
