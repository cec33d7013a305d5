package restore

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/filelock"
	"github.com/virtbackup/virtbackup/internal/localfile"
)

// claim is a restore's hold on the names that it makes in a directory: a marker file there
// lists them and is locked while the restore runs. So what a killed restore has left is known
// by the marker, and the next restore removes it. The marker is not synced: without it, after
// a power cut, what is left is refused like any other file.
type claim struct {
	path string // of the marker
	file *os.File
	left []string // what a killed restore may have made beside the marker
	// What its marker says, too: the files that it has named, and the domain that it defines
	// on them, "" for none.
	files   map[string]uint64
	defines string
	at      unix.Timespec // when it was written
}

// markerName is the marker of a directory that is restored to.
const markerName = ".virtbackup-restore"

// marker is the content of the file.
type marker struct {
	Comment string   `json:"comment"`
	Names   []string `json:"names"` // of what is made beside it
	// Files are the inode numbers of complete files, by the names that they get. Before they
	// are there, no file has its name from the restore.
	Files map[string]uint64 `json:"files,omitempty"`
	// Defines is the UUID of the domain that is defined on the complete files, "" for none.
	Defines string `json:"defines,omitempty"`
}

// maxMarker bounds what is read of a marker, in bytes.
const maxMarker = 1 << 20

const markerComment = "virtbackup restore is at work here, or was killed: begin it again, or remove these names and this file"

// takeClaim locks the marker at path, and makes it where it is absent. The error is of
// fail.Locked where another restore has it.
func takeClaim(path string) (*claim, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, localfile.FileMode)
		if err != nil {
			return nil, err
		}
		if err := filelock.Try(f, filelock.Exclusive); err != nil {
			if errors.Is(err, filelock.ErrHeld) {
				err = fail.Errorf(fail.Locked, "wait until it has ended, or name another place", "another restore is writing to %s", filepath.Dir(path))
			}
			return nil, errors.Join(err, f.Close())
		}
		if filelock.IsAt(f, path) {
			c := &claim{path: path, file: f}
			return c, c.read()
		}
		if err := filelock.Close(f); err != nil { // whoever held it has removed it
			return nil, err
		}
	}
}

// read finds out what the marker says. One that says nothing names nothing.
func (c *claim) read() error {
	m := readMarker(c.file)
	c.files, c.defines = m.Files, m.Defines
	for _, name := range m.Names {
		if name != "" && name != "." && name != ".." && filepath.Base(name) == name {
			c.left = append(c.left, name)
		}
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(c.file.Fd()), &stat); err != nil {
		return errors.Join(err, filelock.Close(c.file))
	}
	c.at = stat.Mtim
	return nil
}

// readMarker returns what a marker says, nothing if it cannot be read.
func readMarker(from io.ReaderAt) (m marker) {
	if json.NewDecoder(io.NewSectionReader(from, 0, maxMarker)).Decode(&m) != nil {
		return marker{}
	}
	return m
}

// Marked returns the UUID of the domain that a restore to a directory, which is at work there
// or was killed, defines: [Request].Defines. It is "" where there is none, and as long as Finish
// was not called.
func Marked(dir string) string {
	f, err := localfile.OpenRegular(filepath.Join(dir, markerName))
	if err != nil {
		return ""
	}
	defer f.Close()
	return readMarker(f).Defines
}

// MarkerOf is the path of the marker that a restore to a directory has there until it is done.
func MarkerOf(dir string) string { return filepath.Join(dir, markerName) }

// RemoveLeft removes what a killed restore to a directory has left there, after undo has undone what it
// has done elsewhere (see [Request].Undo). What was changed since is an error, and all stays. A
// directory without a marker has nothing left.
//
// Errors: fail.Locked if a restore is at work there.
func RemoveLeft(dir string, undo func() error) error {
	path := filepath.Join(dir, markerName)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	c, err := takeClaim(path)
	if err != nil {
		return err
	}
	if name := c.changed(); name != "" {
		return errors.Join(fmt.Errorf("%s in %s was changed since a restore was killed there", name, dir), c.abandon())
	}
	if err := undo(); err != nil {
		return errors.Join(err, c.abandon())
	}
	if err := c.clear(); err != nil {
		return errors.Join(err, c.abandon())
	}
	return c.release()
}

// dir is where the names of the claim are.
func (c *claim) dir() string { return filepath.Dir(c.path) }

// changed returns a name that is not to be removed: what has it is not the file that the killed
// restore gave it, or was changed after it had put its last word into the marker, so somebody
// uses it. No directory is the restore's.
func (c *claim) changed() string {
	for _, name := range c.left {
		var stat unix.Stat_t
		if unix.Lstat(filepath.Join(c.dir(), name), &stat) != nil {
			continue
		}
		inode, named := c.files[name]
		known := named && inode == stat.Ino && !after(stat.Mtim, c.at) || filepath.Ext(name) == partialSuffix
		if !known || stat.Mode&unix.S_IFMT != unix.S_IFREG {
			return name
		}
	}
	return ""
}

func after(a, b unix.Timespec) bool { return a.Nano() > b.Nano() }

// clear removes what a killed restore has left.
func (c *claim) clear() error {
	for _, name := range c.left {
		if err := os.Remove(filepath.Join(c.dir(), name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove what a killed restore has left: %w", err)
		}
	}
	c.left = nil
	return nil
}

// begin puts the names into the marker that are made from now on.
func (c *claim) begin(names []string) error { return c.write(marker{Names: names}) }

// complete writes the marker again when the files are complete, under the names that they have
// until then, and so tells what was put there, or was changed, by others.
func (c *claim) complete(names, paths []string, defines string) error {
	files := map[string]uint64{}
	for _, path := range paths {
		var stat unix.Stat_t
		if err := unix.Lstat(path+partialSuffix, &stat); err != nil {
			return &fs.PathError{Op: "lstat", Path: path + partialSuffix, Err: err}
		}
		files[filepath.Base(path)] = stat.Ino
	}
	return c.write(marker{Names: names, Files: files, Defines: defines})
}

func (c *claim) write(m marker) error {
	m.Comment = markerComment
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	data = append(data, '\n')
	if _, err := c.file.WriteAt(data, 0); err != nil {
		return err
	}
	return c.file.Truncate(int64(len(data))) // a kill before leaves what read takes, too
}

// release removes the marker and gives up the lock.
func (c *claim) release() error {
	err := os.Remove(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, filelock.Close(c.file))
}

// abandon gives up the lock and leaves the marker.
func (c *claim) abandon() error { return filelock.Close(c.file) }

// giveUp undoes takeClaim: a marker that names something was there before.
func (c *claim) giveUp() error {
	if len(c.left) > 0 {
		return c.abandon()
	}
	return c.release()
}

// knows tells whether the marker names it.
func (c *claim) knows(name string) bool {
	return name == filepath.Base(c.path) || slices.Contains(c.left, name)
}
