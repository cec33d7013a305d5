//go:build libguestfs

package files

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

func TestMain(m *testing.M) { testdomain.Main(m) }

const mib = 1 << 20

// guest is a domain that is shut off, and what its file system was made of.
type guest struct {
	*testsite.Site
	source string // the files of vda1
}

// must ends the test for an error of preparing it.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newGuest makes a guest with a file system in a partition, vda1, and one without, vdb. Its files
// have what a hostile guest can think of.
func newGuest(t *testing.T) *guest {
	t.Helper()
	g := &guest{Site: testsite.New(t, testdomain.Define(t, testdomain.Disk{Target: "vda", Size: 64 * mib, Format: "raw"},
		testdomain.Disk{Target: "vdb", Size: 16 * mib, Format: "raw"}))}
	g.Program.Dir = g.Dir
	// The appliance is built once in a working tree, and goes with make clean.
	g.Program.Env = append(g.Program.Env, "XDG_CACHE_HOME="+filepath.Join(testdomain.Root(t), ".cache"))
	g.source = filepath.Join(g.Dir, "source")
	tree := filepath.Join(g.source, "tree")
	must(t, os.MkdirAll(filepath.Join(tree, "-rf"), 0o755))
	for i, name := range hostileNames {
		g.write(t, "tree/"+name, fmt.Sprintf("content %d", i))
	}
	for i := range 200 {
		g.write(t, fmt.Sprintf("tree/-rf/file-%d", i), strings.Repeat("x", i))
	}
	big := make([]byte, 3*mib+17)
	for i := range big {
		big[i] = byte(i*7 + i>>12)
	}
	g.write(t, "big", string(big))
	g.write(t, "tree/setuid", "#!/bin/sh\n")
	setuid := filepath.Join(tree, "setuid")
	must(t, os.Chown(setuid, 1234, 4321))
	must(t, unix.Chmod(setuid, 0o6751))
	must(t, unix.Setxattr(setuid, "user.note", []byte("a\x00\n\\x41"), 0))
	must(t, os.Link(setuid, filepath.Join(tree, "second name")))
	must(t, os.Symlink("../../../../../../../../tmp", filepath.Join(tree, "up")))
	must(t, os.Symlink("/etc/passwd", filepath.Join(g.source, "passwd")))
	must(t, os.Symlink("tree/setuid", filepath.Join(g.source, "relative")))
	must(t, unix.Mkfifo(filepath.Join(tree, "fifo"), 0o640))
	must(t, unix.Mknod(filepath.Join(tree, "disk"), unix.S_IFBLK|0o666, int(unix.Mkdev(8, 0))))
	must(t, os.Chmod(filepath.Join(tree, "-rf"), 0o1703))
	g.age(t)
	g.makeDisks(t)
	return g
}

// hostileNames would be commands, options, several names or another directory, if they were not
// quoted as they must be.
var hostileNames = []string{
	"plain", "a b", "-la", "--", "'", `"`, `\`, `a\`, `' 'x`, "\"\n!touch injected\n", "new\nline", "\n", "tab\t", "\x1b[31mred", "\xff\xfe",
	"~root", "*", "$(id)", "`id`", "|sh", "<<END", "win:c:", "é", "\u202egnp", strings.Repeat("\x01", 255), "a:", "#", "{a,b}",
}

func (g *guest) write(t *testing.T, name, content string) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(g.source, name), []byte(content), 0o644))
}

// age gives all files the same time in the past: what gets another one later is told from it.
func (g *guest) age(t *testing.T) {
	t.Helper()
	at := unix.Timespec{Sec: 1_000_000_000}
	must(t, filepath.Walk(g.source, func(p string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW)
	}))
}

// makeDisks puts the files on the disk, as an installer would, and an empty file system on the other.
func (g *guest) makeDisks(t *testing.T) {
	t.Helper()
	vda := g.Disk("vda").Source
	script := filepath.Join(g.Dir, "table")
	testsite.WriteFile(t, script, "label: gpt\nstart=2048, size=126976\n")
	testdomain.Tool(t, "sh", "-c", fmt.Sprintf("sfdisk -q %s <%s", vda, script))
	testdomain.Tool(t, "mkfs.ext4", "-q", "-F", "-I", "256", "-E", "offset=1048576", "-d", g.source, vda, "62M")
	testdomain.Tool(t, "mkfs.ext4", "-q", "-F", g.Disk("vdb").Source)
}

// files runs virtbackup files.
func (g *guest) files(t *testing.T, code int, args ...string) testdomain.Result {
	t.Helper()
	begin := time.Now()
	defer func() { t.Logf("took %.1f s", time.Since(begin).Seconds()) }()
	return g.Program.Must(t, []int{code}, args...)
}

// listing describes files as the host's kernel sees them, but for the names in left: what cp keeps.
func listing(t *testing.T, root string, left ...string) string {
	t.Helper()
	var lines []string
	inodes := map[uint64]string{}
	must(t, filepath.Walk(root, func(p string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, p)
		must(t, err)
		for _, l := range left {
			if name == l {
				return nil
			}
		}
		var s unix.Stat_t
		must(t, unix.Lstat(p, &s))
		line := fmt.Sprintf("%q mode %o owner %d:%d mtime %d", name, s.Mode, s.Uid, s.Gid, s.Mtim.Sec)
		switch s.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			content, err := os.ReadFile(p)
			must(t, err)
			note := make([]byte, 100)
			n, _ := unix.Getxattr(p, "user.note", note)
			line += fmt.Sprintf(" content %q attribute %q", content, note[:max(n, 0)])
			if first, ok := inodes[s.Ino]; ok {
				line += " linked to " + first
			}
			inodes[s.Ino] = name
		case unix.S_IFLNK:
			target, err := os.Readlink(p)
			must(t, err)
			line += fmt.Sprintf(" target %q", target)
		}
		lines = append(lines, line)
		return nil
	}))
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

// wantSame compares two listings.
func wantSame(t *testing.T, what, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	has := map[string]bool{}
	for line := range strings.Lines(want + "\n") {
		has[line] = true
	}
	for line := range strings.Lines(got + "\n") {
		if !has[line] {
			t.Errorf("%s has %.300s", what, line)
		}
		delete(has, line)
	}
	for line := range has {
		t.Errorf("%s lacks %.300s", what, line)
	}
}

// offsetOf is where a pattern is in a file.
func offsetOf(t *testing.T, path string, pattern []byte) int64 {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	i := bytes.Index(data, pattern)
	if i < 0 {
		t.Fatalf("%s does not have what is sought", path)
	}
	return int64(i)
}
