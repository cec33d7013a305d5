package manifest

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxName leaves room below the 255 bytes of a file name (NAME_MAX) for
// ".partial-" before and ".hashes" behind.
const maxName = 200

// Prefixes of point ids.
const (
	PrefixCheck = "check" // full and inc: has a checkpoint of the same name
	PrefixDiff  = "diff"
	PrefixCopy  = "copy"
)

// Names of files that stand beside or among points.
const (
	// DescriptionName is the file that makes a directory a repository.
	DescriptionName = "repository.json"
	// LostFound is what mkfs.ext4 leaves in the root of a file system, which is
	// where a repository on a disk of its own starts.
	LostFound = "lost+found"

	// An image is TARGET.qcow2, and its hash list TARGET.hashes.
	ImageSuffix  = ".qcow2"
	HashesSuffix = ".hashes"
)

// ValidName says whether a name from outside (a domain, a disk's target, a
// point id, a file in a manifest) may become one element of a path. Spaces are
// allowed: libvirt allows them in the names of domains.
func ValidName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("empty name")
	case len(name) > maxName:
		return fmt.Errorf("name %q… is longer than %d bytes", name[:32], maxName)
	case name[0] == '.':
		return fmt.Errorf("name %q starts with a dot", name)
	case name == LostFound:
		return fmt.Errorf("name %q belongs to the file system", name)
	case name == DescriptionName:
		return fmt.Errorf("name %q belongs to the repository", name)
	case strings.ContainsRune(name, '/'):
		return fmt.Errorf("name %q contains a slash", name)
	case !utf8.ValidString(name):
		return fmt.Errorf("name %q is not UTF-8", name)
	case strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("name %q contains a control character", name)
	}
	return nil
}

// DomainNameError says that a repository can hold no points of a domain of that name, since
// it keeps them in a directory of the name; errors.Is finds ErrNoPoint in it.
type DomainNameError struct {
	Name string
	err  error
}

// ValidDomain returns a *DomainNameError where ValidName refuses the name of a domain.
func ValidDomain(name string) error {
	if err := ValidName(name); err != nil {
		return &DomainNameError{name, err}
	}
	return nil
}

// Error says what is wrong with the name.
func (e *DomainNameError) Error() string {
	return fmt.Sprintf("domain %q can have no points, as these are kept in a directory of its name: %v", e.Name, e.err)
}

// Hint says what to do.
func (e *DomainNameError) Hint() string {
	return "virtbackup list shows the domains that have points; to back this one up, give it another name: virsh domrename OLD NEW, while it is shut off"
}

// Unwrap makes it an ErrNoPoint.
func (e *DomainNameError) Unwrap() error { return ErrNoPoint }

// ParsePointID splits a point id into its prefix (check, diff or copy) and its
// number, 1 or more.
func ParsePointID(id string) (prefix string, n int, err error) {
	digits := strings.TrimLeft(id, "abcdefghijklmnopqrstuvwxyz")
	prefix = id[:len(id)-len(digits)]
	if prefix != PrefixCheck && prefix != PrefixDiff && prefix != PrefixCopy {
		return "", 0, badPointID(id)
	}
	// Nine digits: no overflow when one is added, on any platform.
	if digits == "" || len(digits) > 9 || digits[0] == '0' || strings.Trim(digits, "0123456789") != "" {
		return "", 0, badPointID(id)
	}
	n, err = strconv.Atoi(digits)
	if err != nil {
		return "", 0, badPointID(id)
	}
	return prefix, n, nil
}

func badPointID(id string) error {
	if len(id) > maxName {
		id = id[:32] + "…"
	}
	return fmt.Errorf("%q is not the id of a point (checkN, diffN or copyN, N from 1)", id)
}

// NextNumber is the highest number of the given ids plus one, 1 for none. Names
// that are no point ids (the checkpoints of other tools) do not count.
func NextNumber(ids ...string) int {
	highest := 0
	for _, id := range ids {
		if _, n, err := ParsePointID(id); err == nil {
			highest = max(highest, n)
		}
	}
	return highest + 1
}

// ValidUUID accepts the text form that libvirt and newUUID produce.
func ValidUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, c := range s {
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if !strings.ContainsRune("0123456789abcdefABCDEF", c) {
				return false
			}
		}
	}
	return true
}

// CheckpointName is what libvirt calls the checkpoint of a point, and QEMU its
// bitmaps: a bitmap must have its checkpoint's name.
func CheckpointName(point, identity string) string { return point + "." + identity }

// ParseCheckpointName splits what CheckpointName returns; ok is false for other
// names.
func ParseCheckpointName(name string) (point, identity string, ok bool) {
	point, identity, ok = strings.Cut(name, ".")
	if _, _, err := ParsePointID(point); !ok || err != nil || !ValidIdentity(identity) {
		return "", "", false
	}
	return point, identity, true
}

// NewIdentity returns a new random identity.
func NewIdentity() string {
	var b [8]byte
	rand.Read(b[:]) // never fails since Go 1.24
	return hex.EncodeToString(b[:])
}

// ValidIdentity tells whether s has the form of an identity.
func ValidIdentity(s string) bool {
	return len(s) == 16 && strings.Trim(s, "0123456789abcdef") == ""
}

// ShellWord is a name as it is typed on a command line.
func ShellWord(name string) string {
	if strings.ContainsFunc(name, func(c rune) bool { return !strings.ContainsRune("+-./:=@_", c) && !isAlnum(c) }) {
		return "'" + strings.ReplaceAll(name, "'", `'\''`) + "'"
	}
	return name
}

func isAlnum(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}
