package view

import (
	"cmp"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/virtbackup/virtbackup/guestfs"
	"github.com/virtbackup/virtbackup/internal/bytesize"
	"github.com/virtbackup/virtbackup/internal/terminal"
	"github.com/virtbackup/virtbackup/manifest"
)

// name is a name of a guest on one line: a newline in it would look like another name.
func name(s string) string { return strings.ReplaceAll(s, "\n", `\u000a`) }

// FileList is what a path refers to.
type FileList struct {
	Path  string
	Files []guestfs.File
}

// AllFiles is the files of all lists, for JSON.
func AllFiles(lists []FileList) []guestfs.File {
	all := []guestfs.File{}
	for _, l := range lists {
		all = append(all, l.Files...)
	}
	return all
}

// FileLists prints files, as ls -l does; with quiet only names.
func FileLists(w io.Writer, lists []FileList, quiet bool) error {
	for i, l := range lists {
		if len(lists) > 1 && !quiet {
			if _, err := fmt.Fprintf(w, "%s%s:\n", strings.Repeat("\n", min(i, 1)), name(l.Path)); err != nil {
				return err
			}
		}
		if err := l.print(w, quiet); err != nil {
			return err
		}
	}
	return nil
}

func (l FileList) print(w io.Writer, quiet bool) error {
	g := &terminal.Grid{Columns: []terminal.Column{{Name: "MODE"}, {Name: "OWNER", Right: true}, {Name: "SIZE", Right: true}, {Name: "MODIFIED"}, {Name: "NAME"}}}
	for _, f := range l.Files {
		shown := name(path.Base(f.Path))
		if quiet {
			if _, err := fmt.Fprintln(w, shown); err != nil {
				return err
			}
			continue
		}
		if f.Type() == "symlink" {
			shown += " -> " + name(f.Target)
		}
		g.Add(f.ModeText(), fmt.Sprintf("%d:%d", f.UID, f.GID), f.Size, manifest.TimeText(f.Modified), shown)
	}
	return g.Print(w, "")
}

// FoundFile is a path that was found, for JSON.
type FoundFile struct {
	Path       string `json:"path"`
	PathBase64 string `json:"path_base64,omitempty"` // where JSON cannot have the path
}

// FoundPath prints a path on a line.
func FoundPath(w io.Writer, p string) error {
	_, err := fmt.Fprintln(w, name(p))
	return err
}

// Copied prints what was copied.
func Copied(w io.Writer, c guestfs.Copied) error {
	for _, p := range c.Paths {
		if _, err := fmt.Fprintf(w, "%s is in %s\n", name(p.Path), name(p.To)); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "files copied: %d, %s\n", c.Files, bytesize.Short(c.Bytes))
	return err
}

// Filesystems prints the file systems of a point, with quiet only names.
func Filesystems(w io.Writer, filesystems []guestfs.Filesystem, quiet bool) error {
	g := &terminal.Grid{Columns: []terminal.Column{{Name: "NAME"}, {Name: "TYPE"}, {Name: "MOUNTED AT"}}}
	for _, f := range filesystems {
		if quiet {
			if _, err := fmt.Fprintln(w, name(f.Name)); err != nil {
				return err
			}
			continue
		}
		g.Add(name(f.Name), name(cmp.Or(f.Type, "unknown")), name(orNone(f.Mountpoint)))
	}
	return g.Print(w, "")
}

// Changed is what became of files between two points.
type Changed struct {
	Domain  string           `json:"domain"`
	From    string           `json:"from"`
	To      string           `json:"to"`
	Path    string           `json:"path"`
	Changes []guestfs.Change `json:"changes"`
}

// Text prints a line for each, with quiet only paths, and how many there are.
func (c Changed) Text(w io.Writer, quiet bool) error {
	marks := map[string]string{"added": "+", "removed": "-", "changed": "*"}
	count := map[string]int{}
	for _, change := range c.Changes {
		count[change.Kind]++
		line := name(change.Path)
		if !quiet {
			line = marks[change.Kind] + " " + line
			if len(change.What) > 0 {
				line += "  (" + strings.Join(change.What, ", ") + ")"
			}
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	if quiet {
		return nil
	}
	_, err := fmt.Fprintf(w, "from %s to %s: %d added, %d removed, %d changed\n", c.From, c.To, count["added"], count["removed"], count["changed"])
	return err
}
