package guestfs

import (
	"path"
	"slices"
	"strings"
)

// Tree is what a file system has, by path. It is kept in memory, some 200 bytes a file; 512 MiB of
// paths are the most.
type Tree map[string]entry

// entry is what is compared of a file.
type entry struct {
	mode              uint32
	uid, gid          int32
	size              int64
	modified, changed int64 // nanoseconds
}

// Change is what became of a file between two points.
type Change struct {
	Path       string   `json:"path"`
	PathBase64 string   `json:"path_base64,omitempty"` // where JSON cannot have the path
	Kind       string   `json:"change"`                // added, removed or changed
	Type       string   `json:"type"`
	What       []string `json:"what,omitempty"` // of changed: type, mode, owner, size, mtime, ctime
	Size       int64    `json:"size"`           // of what was removed: before
	SizeBefore *int64   `json:"size_before,omitempty"`
}

// Tree looks at a directory and all below it.
func (s *Session) Tree(asked string) (Tree, error) {
	inside, _, err := s.found(asked)
	if err != nil {
		return nil, err
	}
	byDir, room := map[string][]string{}, roomForNames()
	err = s.Find(asked, func(p string) error {
		if below := strings.TrimPrefix(p[len(asked):], "/"); below != "" {
			dir, name := path.Split(below)
			byDir[dir] = append(byDir[dir], name)
		}
		return room.take(p)
	})
	if err != nil {
		return nil, err
	}
	tree := Tree{}
	for dir, names := range byDir {
		err := s.statAll(path.Join(inside, dir), names, func(name string, stat Stat) error {
			tree[joined(asked, dir+name)] = entryOf(stat)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return tree, s.damage.first()
}

func entryOf(s Stat) entry {
	return entry{s.Mode, int32(s.UID), int32(s.GID), s.Size, s.Modified.UnixNano(), s.Changed.UnixNano()}
}

// Compare returns what became of the files, sorted by path.
//
// A file counts as changed if its type, mode, owner, size, mtime or ctime differ, a directory by the
// first three. So what is missed is content that was changed without the guest's kernel (which
// sets ctime), at the same instant of its clock, or that it had not yet written to the disk.
func Compare(before, after Tree) []Change {
	changes := []Change{}
	add := func(p, kind string, e entry, what []string) {
		changes = append(changes, Change{Path: p, PathBase64: Exact(p), Kind: kind, Type: e.stat().Type(), What: what, Size: e.size})
	}
	for p, was := range before {
		is, ok := after[p]
		if !ok {
			add(p, "removed", was, nil)
		} else if what := was.differs(is); len(what) > 0 {
			add(p, "changed", is, what)
			changes[len(changes)-1].SizeBefore = &was.size
		}
	}
	for p, is := range after {
		if _, ok := before[p]; !ok {
			add(p, "added", is, nil)
		}
	}
	slices.SortFunc(changes, func(a, b Change) int { return strings.Compare(a.Path, b.Path) })
	return changes
}

func (e entry) stat() Stat { return Stat{Mode: e.mode} }

// differs names what is different.
func (e entry) differs(o entry) (what []string) {
	add := func(name string, different bool) {
		if different {
			what = append(what, name)
		}
	}
	const permissions = 0o7777
	add("type", e.mode&^permissions != o.mode&^permissions)
	add("mode", e.mode&permissions != o.mode&permissions)
	add("owner", e.uid != o.uid || e.gid != o.gid)
	if e.stat().IsDir() && o.stat().IsDir() {
		return what // what is in it is listed by itself
	}
	add("size", e.size != o.size)
	add("mtime", e.modified != o.modified)
	add("ctime", e.changed != o.changed)
	return what
}
