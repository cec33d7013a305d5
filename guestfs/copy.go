package guestfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/description"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/localfile"
)

// Copying is a copy of files of a guest to a directory of the host.
type Copying struct {
	dir   string
	force bool
	paths []string // as they were asked for
	names []string // in dir
}

// Copied says what was copied.
type Copied struct {
	Paths []CopiedPath `json:"paths"`
	Files int64        `json:"files"` // directories, links and fifos too
	Bytes int64        `json:"bytes"`
	Left  []string     `json:"left,omitempty"` // what was not copied, and why
}

// CopiedPath is a file or directory that was copied with all below it.
type CopiedPath struct {
	Path string `json:"path"`
	To   string `json:"to"`
}

// rootName is what the whole of a file system is called.
const rootName = "rootfs"

// NewCopying plans a copy of files and directories, each to its name in dir. What has such a name
// there is replaced with force, a directory as a whole; else it is an error of fail.Usage, as are a
// directory in a repository and one whose parent is not there.
func NewCopying(paths []string, dir string, force bool) (*Copying, error) {
	real, err := localfile.RealPath(dir)
	if err != nil {
		return nil, fmt.Errorf("directory to copy to: %w", err)
	}
	if repo := description.Containing(real); repo != "" {
		return nil, fail.Errorf(fail.Usage, "name a directory elsewhere", "%s is in the repository %s: nothing is copied into a repository", real, repo)
	}
	if parent := filepath.Dir(real); !exists(real) && !exists(parent) {
		return nil, fail.Errorf(fail.Usage, "mkdir -p "+parent, "cp makes %s, but not the directory that it would be in", real)
	}
	c := &Copying{dir: dir, force: force, paths: paths}
	from := map[string]string{}
	for _, p := range paths {
		name := copiedName(p)
		if other, ok := from[name]; ok {
			return nil, fail.Errorf(fail.Usage, "copy them to different directories", "%s and %s would both be %s", other, p, filepath.Join(dir, name))
		}
		from[name] = p
		c.names = append(c.names, name)
		to := filepath.Join(dir, name)
		if _, err := os.Lstat(to); err == nil && !force {
			return nil, fail.Errorf(fail.Usage, "name another directory, or --force to replace it", "%s exists", to)
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return c, nil
}

// exists tells whether there is such a file; making one there will say what else is wrong.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// copiedName is the name of a copy: the last one of the path.
func copiedName(asked string) string {
	if !strings.HasPrefix(asked, "/") {
		if i := strings.Index(asked, ":/"); i >= 0 {
			asked = asked[i+1:]
		}
	}
	if name := path.Base(path.Clean("/" + asked)); name != "/" {
		return name
	}
	return rootName
}

// Copy copies all or nothing: names appear in the directory once everything is copied, and on stable
// storage, and nothing that was read was damaged. The directory is made if it is not there, for this user
// alone. Owners, modes and times are kept, owners if this user is root; so are extended attributes
// of users and file capabilities. Set-user-ID and set-group-ID bits and capabilities are kept where no
// other user of the host can enter the directory. Device nodes and sockets are not copied.
func (s *Session) Copy(c *Copying) (copied Copied, err error) {
	if err := os.Mkdir(c.dir, 0o700); err == nil {
		defer func() {
			if err != nil {
				_ = os.Remove(c.dir) // it is empty then
			}
		}()
	} else if !errors.Is(err, fs.ErrExist) {
		return Copied{}, err
	}
	// The directory may be that of a user who is not to be trusted, in which names are renamed and
	// become links at any time. So it, and the one in it, are opened once.
	dest, err := os.OpenFile(c.dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return Copied{}, err
	}
	defer dest.Close()
	staged, err := tempDir(byFD(dest))
	if err != nil {
		return Copied{}, err
	}
	defer func() { err = errors.Join(err, staged.remove()) }()
	// Not in the directory itself, where a name could be that of its mark.
	made, err := staged.inside()
	if err != nil {
		return Copied{}, err
	}
	defer made.Close()
	root, err := os.OpenRoot(byFD(made))
	if err != nil {
		return Copied{}, err
	}
	defer root.Close()
	closed, err := isClosed(dest)
	if err != nil {
		return Copied{}, err
	}
	x := &extraction{root: root, owners: os.Geteuid() == 0, closed: closed}
	defer x.close()
	for i, p := range c.paths {
		if err := s.copyOne(x, p, c.names[i]); err != nil {
			return Copied{}, fmt.Errorf("copy %s: %w", p, err)
		}
	}
	if err := x.finishDirs(); err != nil {
		return Copied{}, err
	}
	if err := syncAll(made); err != nil {
		return Copied{}, err
	}
	if err := s.damage.first(); err != nil {
		return Copied{}, err
	}
	if err := c.place(x, made, dest); err != nil {
		return Copied{}, err
	}
	copied = Copied{Files: x.files, Bytes: x.bytes, Left: x.left}
	for i, name := range c.names {
		copied.Paths = append(copied.Paths, CopiedPath{Path: c.paths[i], To: filepath.Join(c.dir, name)})
	}
	return copied, nil
}

// isClosed tells whether this user alone can enter a directory. An ACL that lets others in shows in the
// bits of the group, as its mask.
func isClosed(dir *os.File) (bool, error) {
	info, err := dir.Stat()
	return err == nil && isOurs(info) && info.Mode().Perm()&0o077 == 0, err
}

// syncAll puts all that a file system has on stable storage: single files would take a call each.
func syncAll(dir *os.File) error {
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return &os.PathError{Op: "sync the file system of", Path: dir.Name(), Err: err}
	}
	return nil
}

// place gives all that was copied its names in the directory, or nothing.
func (c *Copying) place(x *extraction, staged, dest *os.File) (err error) {
	var undo []func() error
	defer func() {
		for i := len(undo) - 1; err != nil && i >= 0; i-- {
			err = errors.Join(err, undo[i]())
		}
	}()
	for _, name := range c.names {
		if err := fault.Point("files: place " + name); err != nil {
			return err
		}
		from, to := filepath.Join(byFD(staged), name), filepath.Join(byFD(dest), name)
		err := localfile.RenameExclusive(from, to)
		back := func() error { return localfile.RenameExclusive(to, from) }
		if errors.Is(err, fs.ErrExist) && c.force {
			var restore func() error
			if restore, err = movable(to); err != nil {
				return fmt.Errorf("replace %s: %w", filepath.Join(c.dir, name), err)
			}
			undo = append(undo, restore)
			err = localfile.Exchange(from, to) // what was there goes with the temporary directory
			back = func() error { return localfile.Exchange(from, to) }
		}
		if err != nil {
			return fmt.Errorf("give %s its place: %w", filepath.Join(c.dir, name), errors.Unwrap(err))
		}
		undo = append(undo, back)
	}
	undo = append(undo, x.closeTops)
	return x.openTops()
}

// movable lets this user move a directory of its own that it has no right to write to, and returns how
// to undo that.
func movable(path string) (undo func() error, err error) {
	undo = func() error { return nil }
	f, err := os.OpenFile(path, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return undo, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.IsDir() || !isOurs(info) || info.Mode()&0o200 != 0 {
		return undo, err
	}
	// os.Chmod, of the directory itself: fchmod(2) takes no descriptor of O_PATH.
	return func() error { return os.Chmod(path, info.Mode()) }, os.Chmod(byFD(f), info.Mode()|0o200)
}

// copyOne copies a file, or a directory with all below it.
func (s *Session) copyOne(x *extraction, asked, name string) error {
	inside, f, err := s.found(asked)
	if err != nil {
		return err
	}
	h := header{name: name, mode: f.Mode & 0o7777, uid: f.UID, gid: f.GID, accessed: f.Accessed, modified: f.Modified}
	switch f.Type() {
	case "directory":
		return s.g.stream(func(r io.Reader) error { return x.tar(r, name) }, " numericowner:true xattrs:true", "tar-out", inside)
	case "file":
		if h.xattrs, err = s.xattrs(inside); err != nil {
			return err
		}
		return s.g.stream(func(r io.Reader) error { return x.file(h, r) }, "", "download", inside)
	case "symlink":
		return x.symlink(h, f.Target)
	case "fifo":
		return x.fifo(h)
	}
	return fail.Errorf(fail.Usage, "", "it is a %s, which is not copied", f.Type())
}

// xattrs reads those attributes of a file that are kept.
func (s *Session) xattrs(inside string) (map[string]string, error) {
	lines, err := s.g.lines("lgetxattrs", inside)
	if err != nil {
		return nil, err
	}
	kept := map[string]string{}
	for _, line := range lines {
		name, ok := strings.CutPrefix(strings.TrimSpace(line), "attrname: ")
		if !ok || !keepsXattr(name) {
			continue
		}
		// A name with a newline is none here: that must not end guestfish.
		value, err := s.g.run("-lgetxattr", inside, name)
		if err != nil {
			return nil, err
		}
		kept[name] = string(value)
	}
	return kept, nil
}
