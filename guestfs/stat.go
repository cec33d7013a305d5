package guestfs

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// Stat is what lstat(2) says of a file of the guest.
type Stat struct {
	Inode, Links       int64
	Mode               uint32 // type and permissions, as in stat(2)
	UID, GID           int
	Size               int64 // bytes
	Device             int64 // that a device node refers to
	Accessed, Modified time.Time
	Changed            time.Time // the inode, which no program in the guest can set
}

// Type is the type of a file.
func (s Stat) Type() string {
	switch s.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "file"
	case unix.S_IFDIR:
		return "directory"
	case unix.S_IFLNK:
		return "symlink"
	case unix.S_IFIFO:
		return "fifo"
	case unix.S_IFSOCK:
		return "socket"
	case unix.S_IFCHR, unix.S_IFBLK:
		return "device"
	}
	return "unknown"
}

// IsDir tells whether it is a directory.
func (s Stat) IsDir() bool { return s.Mode&unix.S_IFMT == unix.S_IFDIR }

// isLink tells whether it is a symbolic link.
func (s Stat) isLink() bool { return s.Mode&unix.S_IFMT == unix.S_IFLNK }

// ModeText is the type and the permissions as ls -l prints them.
func (s Stat) ModeText() string {
	letters := map[uint32]byte{
		unix.S_IFREG: '-', unix.S_IFDIR: 'd', unix.S_IFLNK: 'l', unix.S_IFIFO: 'p', unix.S_IFSOCK: 's', unix.S_IFCHR: 'c', unix.S_IFBLK: 'b',
	}
	text := []byte("?rwxrwxrwx")
	if letter, ok := letters[s.Mode&unix.S_IFMT]; ok {
		text[0] = letter
	}
	for i := 1; i < len(text); i++ {
		if s.Mode&(0o1000>>i) == 0 {
			text[i] = '-'
		}
	}
	for bit, at := range map[uint32]int{unix.S_ISUID: 3, unix.S_ISGID: 6, unix.S_ISVTX: 9} {
		if s.Mode&bit == 0 {
			continue
		}
		special := byte('s')
		if bit == unix.S_ISVTX {
			special = 't'
		}
		if text[at] == '-' {
			special -= 'a' - 'A' // without the right to execute
		}
		text[at] = special
	}
	return string(text)
}

// File is a file of the guest.
type File struct {
	Path   string // as the guest has it, with any bytes
	Target string // of a symbolic link
	Stat
}

// MarshalJSON has the exact path and target in base64 too, where they are not UTF-8.
func (f File) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Path         string    `json:"path"`
		PathBase64   string    `json:"path_base64,omitempty"`
		Type         string    `json:"type"`
		Mode         string    `json:"mode"` // octal, without the type
		UID          int       `json:"uid"`
		GID          int       `json:"gid"`
		Size         int64     `json:"size"`
		Modified     time.Time `json:"mtime"`
		Changed      time.Time `json:"ctime"`
		Inode        int64     `json:"inode"`
		Links        int64     `json:"links"`
		Target       string    `json:"target,omitempty"`
		TargetBase64 string    `json:"target_base64,omitempty"`
	}{f.Path, Exact(f.Path), f.Type(), fmt.Sprintf("%04o", f.Mode&0o7777), f.UID, f.GID, f.Size, f.Modified, f.Changed, f.Inode, f.Links, f.Target, Exact(f.Target)})
}

// Exact is a name in base64 if JSON cannot have it: it is not UTF-8. Else it is "".
func Exact(name string) string {
	if utf8.ValidString(name) {
		return ""
	}
	return base64.StdEncoding.EncodeToString([]byte(name))
}

// parseStats reads what guestfish prints of statns structures (guestfs(3)): lines of "st_NAME:
// NUMBER", each structure beginning with st_dev. One of a list that has no file has the inode -1.
func parseStats(printed []byte) (stats []Stat, err error) {
	var one map[string]int64
	add := func() {
		if one != nil {
			stats = append(stats, statOf(one))
		}
	}
	for line := range bytes.Lines(printed) {
		name, value, ok := strings.Cut(strings.TrimSpace(string(line)), ": ")
		if !ok || !strings.HasPrefix(name, "st_") {
			continue // [0] = { and }
		}
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("guestfish prints %s %q", name, value)
		}
		if name == "st_dev" {
			add()
			one = map[string]int64{}
		}
		if one == nil {
			return nil, fmt.Errorf("guestfish prints %s before st_dev", name)
		}
		one[name] = n
	}
	add()
	return stats, nil
}

func statOf(of map[string]int64) Stat {
	at := func(what string) time.Time {
		return time.Unix(of["st_"+what+"time_sec"], of["st_"+what+"time_nsec"]).UTC()
	}
	return Stat{
		Inode: of["st_ino"], Links: of["st_nlink"], Mode: uint32(of["st_mode"]), UID: int(of["st_uid"]), GID: int(of["st_gid"]),
		Size: of["st_size"], Device: of["st_rdev"], Accessed: at("a"), Modified: at("m"), Changed: at("c"),
	}
}
