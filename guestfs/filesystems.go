package guestfs

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/virtbackup/virtbackup/internal/fail"
)

// Filesystem is a file system of a point, or what is in the place of one.
type Filesystem struct {
	// Name is how paths refer to it: a disk's target with the number of the partition (vda1), or a
	// name of LVM or the like (vg/root).
	Name string `json:"name"`
	Type string `json:"type"` // ext4, xfs, ntfs, …; swap, unknown, crypto_LUKS and the like cannot be read
	// Mountpoint is where the operating system that was found has it; "" nowhere.
	Mountpoint string `json:"mountpoint,omitempty"`

	device string // in the appliance
	root   string // the device of the root file system whose operating system mounts it
}

// unreadable are types of what is in the place of a file system.
var unreadable = []string{"swap", "unknown", "LVM2_member", "linux_raid_member", "bcache", ""}

// Readable tells whether it has files that can be read.
func (f Filesystem) Readable() bool { return !f.Encrypted() && !slices.Contains(unreadable, f.Type) }

// Encrypted tells whether it needs a key, which only the guest has.
func (f Filesystem) Encrypted() bool {
	return f.Type == "crypto_LUKS" || strings.EqualFold(f.Type, "BitLocker")
}

// Filesystems are those of the disks, and where operating systems have them.
func (s *Session) Filesystems() ([]Filesystem, error) {
	err := s.inspect()
	return s.filesystems, err
}

// findFilesystems finds file systems.
func (s *Session) findFilesystems() error {
	lines, err := s.g.lines("list-filesystems")
	if err != nil {
		return err
	}
	for _, line := range lines {
		if i := strings.LastIndex(line, ": "); i > 0 {
			device := line[:i]
			s.filesystems = append(s.filesystems, Filesystem{Name: nameOf(device, s.targets), Type: line[i+2:], device: device})
		}
	}
	return nil
}

// inspect finds operating systems, once. Where there is no KVM that takes longer than all else.
func (s *Session) inspect() error {
	if s.inspected {
		return nil
	}
	s.inspected = true
	roots, err := s.g.lines("inspect-os")
	if err != nil {
		return err
	}
	for _, root := range roots {
		if err := s.findMountpoints(root); err != nil {
			return err
		}
	}
	return nil
}

func (s *Session) findMountpoints(root string) error {
	lines, err := s.g.lines("inspect-get-mountpoints", root)
	if err != nil {
		return err
	}
	for _, line := range lines {
		mountpoint, device, ok := strings.Cut(line, ": ")
		i := slices.IndexFunc(s.filesystems, func(f Filesystem) bool { return f.device == device })
		if ok && i >= 0 && s.filesystems[i].root == "" {
			s.filesystems[i].root, s.filesystems[i].Mountpoint = root, mountpoint
		}
	}
	return nil
}

// disk is the name that libguestfs gives to a disk, and a partition of it.
var disk = regexp.MustCompile(`/dev/sd([a-z]+)([0-9]*)`)

// nameOf is the name of a device for people: with the disks' targets, and without /dev/.
func nameOf(device string, targets []string) string {
	name := disk.ReplaceAllStringFunc(device, func(d string) string {
		parts := disk.FindStringSubmatch(d)
		if i := diskNumber(parts[1]); i < len(targets) {
			return "/dev/" + targets[i] + parts[2]
		}
		return d
	})
	return strings.TrimPrefix(name, "/dev/")
}

// diskNumber counts from 0: a, b, …, z, aa, ab.
func diskNumber(letters string) int {
	n := 0
	for _, c := range letters {
		n = n*26 + int(c-'a') + 1
	}
	return n - 1
}

// mount mounts what a path refers to, and returns the path in there. Paths are [FILESYSTEM:]/PATH:
// without a file system they are those of the one operating system on the disks, or, if there is none,
// of the only file system. A session mounts once: all its paths refer to the same.
func (s *Session) mount(path string) (string, error) {
	filesystem, inside, err := s.split(path)
	if err != nil {
		return "", err
	}
	wanted := "the guest"
	if filesystem != nil {
		wanted = filesystem.Name
	}
	switch {
	case s.mounted == wanted:
		return inside, nil
	case s.mounted != "":
		return "", fail.Errorf(fail.Usage, "use a command for each", "the paths are of %s and of %s", s.mounted, wanted)
	case filesystem != nil:
		err = s.mountOne(*filesystem)
	default:
		err = s.mountGuest()
	}
	s.mounted = wanted
	return inside, err
}

// split splits a path into the file system, nil for none, and the path in it.
func (s *Session) split(path string) (*Filesystem, string, error) {
	if strings.HasPrefix(path, "/") {
		return nil, path, nil
	}
	for i, f := range s.filesystems {
		if inside, ok := strings.CutPrefix(path, f.Name+":"); ok {
			if !strings.HasPrefix(inside, "/") {
				inside = "/" + inside
			}
			return &s.filesystems[i], inside, nil
		}
	}
	name, _, ok := strings.Cut(path, ":/")
	if !ok {
		return nil, "", fail.Errorf(fail.Usage, "/"+path+", for example", "the path %q begins neither with / nor with a file system", path)
	}
	return nil, "", fail.Errorf(fail.NotFound, s.choice(), "there is no file system %q", name)
}

// mountOne mounts a file system alone.
func (s *Session) mountOne(f Filesystem) error {
	switch {
	case f.Encrypted():
		return encrypted(f)
	case !f.Readable():
		return fail.Errorf(fail.Usage, s.choice(), "%s has no file system (%s)", f.Name, cmp.Or(f.Type, "unknown"))
	}
	if _, err := s.g.run("mount-ro", f.device, "/"); err != nil {
		return fmt.Errorf("mount %s: %w", f.Name, err)
	}
	return nil
}

// mountGuest mounts the file systems of the operating system, as it has them, or the only one.
func (s *Session) mountGuest() error {
	if err := s.inspect(); err != nil {
		return err
	}
	var roots []Filesystem
	for _, f := range s.filesystems {
		if f.Mountpoint == "/" {
			roots = append(roots, f)
		}
	}
	if len(roots) == 0 {
		return s.mountOnly()
	}
	if len(roots) > 1 {
		return fail.Errorf(fail.Usage, s.choice(), "there are %d operating systems on these disks", len(roots))
	}
	if err := s.mountOne(roots[0]); err != nil {
		return err
	}
	others := slices.DeleteFunc(slices.Clone(s.filesystems), func(f Filesystem) bool { return f.root != roots[0].root || f.Mountpoint == "/" })
	slices.SortFunc(others, func(a, b Filesystem) int { return cmp.Compare(len(a.Mountpoint), len(b.Mountpoint)) })
	for _, f := range others {
		// Its configuration names it, which may be wrong.
		if _, err := s.g.run("-mount-ro", f.device, f.Mountpoint); err != nil {
			return err
		}
	}
	return s.warnOfUnmounted(others)
}

// warnOfUnmounted warns of file systems whose places are empty, or not there.
func (s *Session) warnOfUnmounted(filesystems []Filesystem) error {
	lines, err := s.g.lines("mountpoints")
	if err != nil {
		return err
	}
	mounted := map[string]bool{}
	for _, line := range lines {
		device, _, _ := strings.Cut(line, ": ")
		mounted[device] = true
	}
	for _, f := range filesystems {
		if !mounted[f.device] {
			s.log.Warn(fmt.Sprintf("%s cannot be mounted at %s: its files are missing there", f.Name, f.Mountpoint))
		}
	}
	return nil
}

// mountOnly mounts the only file system there is.
func (s *Session) mountOnly() error {
	readable := slices.DeleteFunc(slices.Clone(s.filesystems), func(f Filesystem) bool { return !f.Readable() })
	if len(readable) == 1 {
		return s.mountOne(readable[0])
	}
	if len(readable) > 1 {
		return fail.Errorf(fail.Usage, s.choice(), "no operating system was found on these disks, and there are %d file systems", len(readable))
	}
	if i := slices.IndexFunc(s.filesystems, Filesystem.Encrypted); i >= 0 {
		return encrypted(s.filesystems[i])
	}
	return errors.New("no file system that can be read was found on these disks")
}

func encrypted(f Filesystem) error {
	return fail.WithHint(fmt.Errorf("%s is encrypted (%s): its files cannot be read without the guest's key", f.Name, f.Type),
		"virtbackup serve gives the disk to programs that take a key, such as guestmount --key; or restore the point")
}

// choice is the hint that names the file systems.
func (s *Session) choice() string {
	types := map[string]string{}
	for _, f := range s.filesystems {
		if f.Readable() {
			types[f.Name] = f.Type
		}
	}
	if len(types) == 0 {
		return ""
	}
	var names []string
	for _, name := range slices.Sorted(maps.Keys(types)) {
		names = append(names, name+" ("+types[name]+")")
	}
	const most = 10
	more := ""
	if n := len(names) - most; n > 0 {
		names, more = names[:most], " and "+strconv.Itoa(n)+" more (files DOMAIN filesystems)"
	}
	first := slices.Sorted(maps.Keys(types))[0]
	return fmt.Sprintf("put one of them before the path, such as %s:/PATH: %s%s", first, strings.Join(names, ", "), more)
}
