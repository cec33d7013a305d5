package guestfs

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// extraction makes files of a guest in a directory of the host. Whatever names, types and links they
// have, nothing is made, changed or followed outside of the directory (os.Root); within it nothing is
// made twice, so that no entry goes through a link that another one has made. Device nodes are
// not made: one that anyone may open would be a disk of this host.
type extraction struct {
	root *os.Root
	// Owners are kept if this is root, as for tar and cp.
	owners bool
	// closed: no other user of the host can enter the directory that the files end in. Elsewhere a
	// set-user-ID program of a hostile guest would give them the rights of its owner, root's too.
	closed bool

	files, bytes int64
	left         []string // what was not made, and why
	dirs         []header // their modes and times are set last
	tops         []topDir
}

// header is the metadata of a file.
type header struct {
	name               string // relative to the root, local
	mode               uint32 // permissions
	uid, gid           int
	accessed, modified time.Time
	xattrs             map[string]string
}

// topDir is a directory that is moved to its place once all is made.
type topDir struct {
	*os.File
	mode uint32
}

// maxLeft bounds what is said of what was not made.
const maxLeft = 100

func (x *extraction) leave(name, why string) {
	if len(x.left) < maxLeft {
		x.left = append(x.left, fmt.Sprintf("%q: %s", name, why))
	} else if len(x.left) == maxLeft {
		x.left = append(x.left, "more that is not named here")
	}
}

// errEscapes says that an archive is not one that an honest appliance makes.
var errEscapes = errors.New("the name leads out of the directory")

// tar makes the files of an archive below name, which is made.
func (x *extraction) tar(r io.Reader, name string) error {
	var end ending
	r = io.TeeReader(r, &end)
	archive := tar.NewReader(r)
	for {
		entry, err := archive.Next()
		if errors.Is(err, io.EOF) {
			// tar pads the archive with zeros to whole records.
			_, err := io.Copy(io.Discard, r)
			if err == nil && !end.complete() {
				err = errors.New("the archive that the appliance makes is cut short")
			}
			return err
		}
		if err != nil {
			return fmt.Errorf("read the archive that the appliance makes: %w", err)
		}
		if err := x.entry(archive, entry, name); err != nil {
			return fmt.Errorf("%q: %w", entry.Name, err)
		}
	}
}

// ending keeps the last of what is written to it. An archive ends with two blocks of zeros, without
// which archive/tar takes one that is cut short between two entries for a whole one.
type ending struct{ last []byte }

const endingBytes = 2 * 512

func (e *ending) Write(p []byte) (int, error) {
	e.last = append(e.last, p[max(0, len(p)-endingBytes):]...)
	e.last = e.last[max(0, len(e.last)-endingBytes):]
	return len(p), nil
}

func (e *ending) complete() bool { return len(e.last) == endingBytes && isZero(e.last) }

// entry makes an entry of an archive.
func (x *extraction) entry(content io.Reader, entry *tar.Header, below string) error {
	name, err := local(below, entry.Name)
	if err != nil {
		return err
	}
	h := header{name: name, mode: uint32(entry.Mode) & 0o7777, uid: entry.Uid, gid: entry.Gid, accessed: entry.AccessTime, modified: entry.ModTime, xattrs: xattrsOf(entry.PAXRecords)}
	switch entry.Typeflag {
	case tar.TypeDir:
		return x.dir(h)
	case tar.TypeReg:
		return x.file(h, content)
	case tar.TypeSymlink:
		return x.symlink(h, entry.Linkname)
	case tar.TypeLink:
		target, err := local(below, entry.Linkname)
		if err != nil {
			return err
		}
		return x.link(h, target)
	case tar.TypeFifo:
		return x.fifo(h)
	case tar.TypeChar, tar.TypeBlock:
		x.leave(name, "a device node is not made")
		return nil
	}
	x.leave(name, fmt.Sprintf("unknown type %q", entry.Typeflag))
	return nil
}

// local is the name of an entry below a directory.
func local(below, name string) (string, error) {
	clean := path.Clean(name)
	if !filepath.IsLocal(clean) || strings.Contains("/"+name+"/", "/../") {
		return "", errEscapes
	}
	return path.Join(below, clean), nil
}

// xattrsOf are the extended attributes that are kept: those of users, and file capabilities. Labels
// of SELinux and the like belong to the policy of the host.
func xattrsOf(records map[string]string) map[string]string {
	kept := map[string]string{}
	for key, value := range records {
		if name, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok && keepsXattr(name) {
			kept[name] = value
		}
	}
	return kept
}

func keepsXattr(name string) bool { return strings.HasPrefix(name, "user.") || name == capability }

// capability is the attribute with the capabilities that a program gets (capabilities(7)).
const capability = "security.capability"

// setID are the bits of a mode that give a program the rights of its owner and group.
const setID = unix.S_ISUID | unix.S_ISGID

// safe is a header without what gives other users of the host rights, unless none can get there.
func (x *extraction) safe(h header) header {
	if x.closed {
		return h
	}
	if h.mode&setID != 0 {
		h.mode &^= setID
		x.leave(h.name, "its set-user-ID and set-group-ID bits: other users can enter the directory it is copied to")
	}
	if _, ok := h.xattrs[capability]; ok {
		h.xattrs = maps.Clone(h.xattrs)
		delete(h.xattrs, capability)
		x.leave(h.name, "its capabilities: other users can enter the directory it is copied to")
	}
	return h
}

// dir makes a directory, which is this user's alone until all is made.
func (x *extraction) dir(h header) error {
	if err := x.root.Mkdir(h.name, 0o700); err != nil {
		return err
	}
	x.files++
	x.dirs = append(x.dirs, x.safe(h))
	return nil
}

// file makes a regular file.
func (x *extraction) file(h header, content io.Reader) (err error) {
	f, err := x.root.OpenFile(h.name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	n, err := copySparse(f, content)
	if err != nil {
		return err
	}
	x.files, x.bytes = x.files+1, x.bytes+n
	return x.finish(f, x.safe(h))
}

// finish gives an open file its owner, mode, attributes and times, in the order in which none takes
// another away: chown(2) removes the set-user-ID bit and capabilities.
func (x *extraction) finish(f *os.File, h header) error {
	if x.owners {
		if err := f.Chown(h.uid, h.gid); err != nil {
			return err
		}
	}
	fd := int(f.Fd())
	for _, name := range slices.Sorted(maps.Keys(h.xattrs)) {
		if err := unix.Fsetxattr(fd, name, []byte(h.xattrs[name]), 0); err != nil {
			x.leave(h.name, fmt.Sprintf("without the attribute %q: %v", name, err))
		}
	}
	if err := unix.Fchmod(fd, h.mode); err != nil {
		return &fs.PathError{Op: "chmod", Path: h.name, Err: err}
	}
	// utimensat(2) takes no descriptor of a file before Linux 5.8.
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), h.times(), 0); err != nil {
		return &fs.PathError{Op: "set the times of", Path: h.name, Err: err}
	}
	return nil
}

// times are those of utimensat(2).
func (h header) times() []unix.Timespec {
	// Not by UnixNano, which ends in 2262: the guest may have any time.
	of := func(t time.Time) unix.Timespec { return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())} }
	if h.accessed.IsZero() {
		return []unix.Timespec{of(h.modified), of(h.modified)}
	}
	return []unix.Timespec{of(h.accessed), of(h.modified)}
}

func (x *extraction) symlink(h header, target string) error {
	if err := x.root.Symlink(target, h.name); err != nil {
		return err
	}
	x.files++
	return x.inDir(h.name, func(dir int, base string) error {
		if x.owners {
			if err := unix.Fchownat(dir, base, h.uid, h.gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				return err
			}
		}
		return unix.UtimesNanoAt(dir, base, h.times(), unix.AT_SYMLINK_NOFOLLOW)
	})
}

// link makes another name of a file that was made before.
func (x *extraction) link(h header, target string) error {
	if err := x.root.Link(target, h.name); err != nil {
		return err
	}
	x.files++
	return nil
}

func (x *extraction) fifo(h header) error {
	h = x.safe(h)
	err := x.inDir(h.name, func(dir int, base string) error {
		if err := unix.Mknodat(dir, base, unix.S_IFIFO|0o600, 0); err != nil {
			return err
		}
		if x.owners {
			if err := unix.Fchownat(dir, base, h.uid, h.gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				return err
			}
		}
		// Nobody else can have put a link in its place: the directory is this user's alone.
		if err := unix.Fchmodat(dir, base, h.mode, 0); err != nil {
			return err
		}
		return unix.UtimesNanoAt(dir, base, h.times(), unix.AT_SYMLINK_NOFOLLOW)
	})
	if err == nil {
		x.files++
	}
	return err
}

// inDir calls do with a descriptor of the directory that a name is in, and its name there.
func (x *extraction) inDir(name string, do func(dir int, base string) error) error {
	dir, err := x.root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := do(int(dir.Fd()), path.Base(name)); err != nil {
		return &fs.PathError{Op: "make", Path: name, Err: err}
	}
	return nil
}

// finishDirs gives directories their owners, modes and times, those below others first. Those that are
// moved keep the mode 0700 until openTops: a user who is not root cannot move a directory without the
// right to write to it, whose entry ".." changes (rename(2)).
func (x *extraction) finishDirs() error {
	for _, h := range slices.Backward(x.dirs) {
		f, err := x.root.OpenFile(h.name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		if !strings.Contains(h.name, "/") {
			x.tops = append(x.tops, topDir{f, h.mode})
			h.mode = 0o700
			if err := x.finish(f, h); err != nil {
				return err
			}
			continue
		}
		if err := errors.Join(x.finish(f, h), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// openTops gives the directories that were moved their modes.
func (x *extraction) openTops() error {
	for _, top := range x.tops {
		if err := unix.Fchmod(int(top.Fd()), top.mode); err != nil {
			return &fs.PathError{Op: "chmod", Path: top.Name(), Err: err}
		}
	}
	return nil
}

// closeTops takes their modes back, so that they can be moved again.
func (x *extraction) closeTops() error {
	for _, top := range x.tops {
		if err := unix.Fchmod(int(top.Fd()), 0o700); err != nil {
			return &fs.PathError{Op: "chmod", Path: top.Name(), Err: err}
		}
	}
	return nil
}

// close closes what finishDirs has left open.
func (x *extraction) close() {
	for _, top := range x.tops {
		top.Close()
	}
}

// sparseBlock is how many zeros in a row become a hole.
const sparseBlock = 64 << 10

// copySparse copies to a new file, with holes instead of zeros.
func copySparse(f *os.File, r io.Reader) (n int64, err error) {
	block := make([]byte, sparseBlock)
	for {
		got, readErr := fill(block, r)
		if !isZero(block[:got]) {
			if _, err := f.WriteAt(block[:got], n); err != nil {
				return n, err
			}
		}
		n += int64(got)
		switch {
		case errors.Is(readErr, io.EOF):
			return n, f.Truncate(n)
		case readErr != nil:
			return n, readErr
		}
	}
}

// fill reads until the block is full. Unlike io.ReadFull it keeps the error of an archive that is cut
// short, io.ErrUnexpectedEOF, apart from the end of a file.
func fill(block []byte, r io.Reader) (got int, err error) {
	for got < len(block) && err == nil {
		var n int
		n, err = r.Read(block[got:])
		got += n
	}
	return got, err
}

func isZero(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }
