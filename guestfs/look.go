package guestfs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/virtbackup/virtbackup/internal/fail"
)

// errAbsent says that the guest has no such file.
var errAbsent = fail.Sentinel(fail.NotFound, "", "there is no such file in the point")

// found is a file that a path refers to. Its path is the one that was asked for.
func (s *Session) found(asked string) (inside string, f File, err error) {
	if inside, err = s.mount(asked); err != nil {
		return "", File{}, err
	}
	f, err = s.lstat(inside)
	if err != nil {
		return "", File{}, fmt.Errorf("%s: %w", asked, err)
	}
	f.Path = asked
	return inside, f, nil
}

// lstat looks at a file of what is mounted, not following a link at the end of its path.
func (s *Session) lstat(inside string) (File, error) {
	// These never fail; lstatns would, and end guestfish.
	there, err := s.g.is("exists", inside)
	if err == nil && !there {
		there, err = s.g.is("is-symlink", inside)
	}
	if err != nil {
		return File{}, err
	}
	if !there {
		return File{}, errAbsent
	}
	printed, err := s.g.run("lstatns", inside)
	if err != nil {
		return File{}, err
	}
	stats, err := parseStats(printed)
	if err == nil && len(stats) != 1 {
		err = fmt.Errorf("guestfish prints %d structures for a file", len(stats))
	}
	if err != nil {
		return File{}, err
	}
	return s.withTarget(inside, File{Path: inside, Stat: stats[0]})
}

// withTarget adds the target of a link.
func (s *Session) withTarget(inside string, f File) (File, error) {
	if !f.isLink() {
		return f, nil
	}
	target, err := s.g.run("readlink", inside)
	f.Target = strings.TrimSuffix(string(target), "\n")
	return f, err
}

// List calls do with the files in a directory, sorted by name, or with the file itself if it is none. A
// link to a directory is followed.
func (s *Session) List(asked string, do func(File) error) error {
	inside, f, err := s.found(asked)
	if err != nil {
		return err
	}
	dir := f.IsDir()
	if f.isLink() {
		if dir, err = s.g.is("is-dir", inside, "followsymlinks:true"); err != nil {
			return err
		}
	}
	if !dir {
		return do(f)
	}
	var (
		names []string
		room  = roomForNames()
	)
	err = s.g.stream(func(r io.Reader) error {
		return eachName(r, func(name string) error {
			names = append(names, name)
			return room.take(name)
		})
	}, "", "ls0", inside)
	if err != nil {
		return err
	}
	slices.Sort(names)
	return s.statAll(inside, names, func(name string, stat Stat) error {
		f, err := s.withTarget(path.Join(inside, name), File{Path: joined(asked, name), Stat: stat})
		if err != nil {
			return err
		}
		return do(f)
	})
}

// joined adds a name to a path as it was asked for.
func joined(asked, name string) string {
	if strings.HasSuffix(asked, "/") {
		return asked + name
	}
	return asked + "/" + name
}

// statAll calls do for names in a directory, in their order.
func (s *Session) statAll(dir string, names []string, do func(name string, stat Stat) error) error {
	for len(names) > 0 {
		n := 0
		for n < len(names) && listable(names[n]) {
			n++
		}
		for _, batch := range lists(names[:n]) {
			if err := s.statBatch(dir, batch, do); err != nil {
				return err
			}
		}
		if names = names[n:]; len(names) == 0 {
			return nil
		}
		f, err := s.lstat(path.Join(dir, names[0]))
		if err == nil {
			err = do(names[0], f.Stat)
		}
		if err != nil {
			return err
		}
		names = names[1:]
	}
	return nil
}

// statBatch does this for names that are one list.
func (s *Session) statBatch(dir string, names []string, do func(name string, stat Stat) error) error {
	printed, err := s.g.run("lstatnslist", dir, list(names))
	if err != nil {
		return err
	}
	stats, err := parseStats(printed)
	if err == nil && len(stats) != len(names) {
		err = fmt.Errorf("guestfish prints %d structures for %d files", len(stats), len(names))
	}
	if err != nil {
		return err
	}
	for i, name := range names {
		if stats[i].Inode == -1 {
			return fmt.Errorf("%s is listed and cannot be looked at: the file system is damaged", path.Join(dir, name))
		}
		if err := do(name, stats[i]); err != nil {
			return err
		}
	}
	return nil
}

// Find calls do with the path of a file, and those of all below it if it is a directory, in no
// particular order. Links are not followed.
func (s *Session) Find(asked string, do func(path string) error) error {
	inside, f, err := s.found(asked)
	if err != nil {
		return err
	}
	if err := do(asked); err != nil || !f.IsDir() {
		return err
	}
	return s.g.stream(func(r io.Reader) error {
		return eachName(r, func(name string) error {
			// libguestfs 1.48 leaves a slash before the names below directories that are mountpoints.
			return do(joined(asked, strings.TrimPrefix(name, "/")))
		})
	}, "", "find0", inside)
}

// namesRoom is how many bytes of names may still be kept in memory. An appliance that a guest has taken
// over can send names without end.
type namesRoom int

// roomForNames has room for ten million names of 40 bytes.
func roomForNames() *namesRoom {
	room := namesRoom(512 << 20)
	return &room
}

// take takes the room for a name.
func (n *namesRoom) take(name string) error {
	const header = 16 // of a string
	if *n -= namesRoom(len(name) + header); *n < 0 {
		return fail.WithHint(errors.New("there are more names than are kept in memory (512 MiB)"), "name directories below; find prints names as it reads them")
	}
	return nil
}

// maxName is the longest name that is read, in bytes with the zero. A program opens no path that is longer
// than 4096 (PATH_MAX), but directories can be nested deeper, and find0 gives paths.
const maxName = 64 << 10

// eachName reads names that each end with a zero byte.
func eachName(r io.Reader, do func(string) error) error {
	for buffered := bufio.NewReaderSize(r, maxName); ; {
		name, err := buffered.ReadSlice(0)
		switch {
		case errors.Is(err, io.EOF) && len(name) == 0:
			return nil
		case errors.Is(err, bufio.ErrBufferFull):
			return fmt.Errorf("read names: one is longer than %d KiB, which no honest guest has", maxName>>10)
		case err != nil:
			return fmt.Errorf("read names: %w", err)
		}
		if err := do(string(bytes.TrimSuffix(name, []byte{0}))); err != nil {
			return err
		}
	}
}

// Cat writes the content of a regular file to w. Links are followed, within the guest.
func (s *Session) Cat(asked string, w io.Writer) error {
	inside, _, err := s.found(asked)
	if err != nil {
		return err
	}
	// A fifo would never end, and a device is one of the appliance.
	regular, err := s.g.is("is-file", inside, "followsymlinks:true")
	if err != nil {
		return err
	}
	if !regular {
		return fail.Errorf(fail.Usage, "", "%s is not a regular file", asked)
	}
	return s.g.stream(func(r io.Reader) error {
		_, err := io.Copy(w, r)
		return err
	}, "", "download", inside)
}
