package guestfs

import (
	"slices"
	"testing"
)

func TestCompare(t *testing.T) {
	const file, dir = 0o100644, 0o040755
	before := Tree{
		"/same": {mode: file, size: 1}, "/gone": {mode: file, size: 2}, "/mode": {mode: file}, "/owner": {mode: file}, "/type": {mode: file},
		"/size": {mode: file, size: 3}, "/rewritten": {mode: file, size: 3, modified: 1, changed: 1}, "/dir": {mode: dir, size: 1, modified: 1},
		"/hidden": {mode: file, modified: 1, changed: 1},
	}
	after := Tree{
		"/same": {mode: file, size: 1}, "/new": {mode: dir}, "/mode": {mode: 0o104644}, "/owner": {mode: file, gid: 1}, "/type": {mode: 0o120777},
		"/size": {mode: file, size: 4}, "/rewritten": {mode: file, size: 3, modified: 2, changed: 2}, "/dir": {mode: dir, size: 2, modified: 2},
		"/hidden": {mode: file, modified: 1, changed: 2},
	}
	want := map[string][]string{
		"added /new": nil, "removed /gone": nil, "changed /mode": {"mode"}, "changed /owner": {"owner"}, "changed /type": {"type", "mode"},
		"changed /size": {"size"}, "changed /rewritten": {"mtime", "ctime"}, "changed /hidden": {"ctime"},
	}
	got := Compare(before, after)
	for _, c := range got {
		what, ok := want[c.Kind+" "+c.Path]
		if !ok || !slices.Equal(what, c.What) {
			t.Errorf("%s %s: %q", c.Kind, c.Path, c.What)
		}
	}
	if len(got) != len(want) || !slices.IsSortedFunc(got, func(a, b Change) int {
		if a.Path < b.Path {
			return -1
		}
		return 1
	}) {
		t.Errorf("%d changes, want %d, sorted", len(got), len(want))
	}
}
