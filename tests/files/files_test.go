//go:build libguestfs

package files

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/tests/testsite"
)

// The files of two points are those that the file system was made of, by name, content and metadata,
// and the repository stays as it is. Each step boots an appliance, so they share one guest.
func TestFiles(t *testing.T) {
	g := newGuest(t)
	g.BackUp(0, "full")
	before := testsite.Listing(t, g.Repo)
	t.Run("a choice", func(t *testing.T) { wantChoice(t, g) }) // builds the appliance, if need be
	// Without KVM an appliance computes on one processor for 20 seconds.
	t.Run("side by side", func(t *testing.T) {
		for name, want := range map[string]func(*testing.T, *guest){"find": wantFound, "ls": wantListed, "cat": wantContent, "cp": wantCopied} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				want(t, g)
			})
		}
	})
	t.Run("a signal", func(t *testing.T) { wantNothingLeft(t, g) })
	wantSame(t, "the repository", testsite.Listing(t, g.Repo), before)
	if _, err := os.Lstat(filepath.Join(g.Dir, "injected")); err == nil {
		t.Error("a name of the guest became a command of the host")
	}
	t.Run("changed", func(t *testing.T) { wantChanges(t, g) })
	t.Run("damage", func(t *testing.T) { wantDamage(t, g) })
}

// Without an operating system, and with two file systems, one has to be chosen.
func wantChoice(t *testing.T, g *guest) {
	r := g.files(t, 2, "files", g.Name, "ls", "/")
	for _, want := range []string{"no operating system", "vda1 (ext4)", "vdb (ext4)"} {
		if !strings.Contains(r.Stderr, want) {
			t.Errorf("%q is not in %s", want, r.Stderr)
		}
	}
}

// sourceNames are the paths below a directory of the source, as the guest has them.
func (g *guest) sourceNames(t *testing.T, of string) (names []string) {
	must(t, filepath.Walk(filepath.Join(g.source, of), func(p string, _ os.FileInfo, err error) error {
		names = append(names, strings.TrimPrefix(p, g.source))
		return err
	}))
	slices.Sort(names)
	return names
}

func wantFound(t *testing.T, g *guest) {
	r := g.files(t, 0, "files", g.Name, "find", "-0", "vda1:/tree")
	got := strings.Split(strings.TrimSuffix(r.Stdout, "\x00"), "\x00")
	for i := range got {
		got[i] = strings.TrimPrefix(got[i], "vda1:")
	}
	slices.Sort(got)
	if want := g.sourceNames(t, "tree"); !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
}

func wantListed(t *testing.T, g *guest) {
	r := g.files(t, 0, "--json", "files", g.Name, "ls", "vda1:/tree", "vda1:/passwd")
	var files []struct {
		Path       string
		PathBase64 string `json:"path_base64"`
		Size       int64
		UID, GID   uint32
		Inode      uint64
		Mtime      time.Time
		Target     string
	}
	must(t, json.Unmarshal([]byte(r.Stdout), &files))
	entries, err := os.ReadDir(filepath.Join(g.source, "tree"))
	must(t, err)
	if len(files) != len(entries)+1 {
		t.Errorf("%d files, want %d and a link", len(files), len(entries))
	}
	for _, f := range files {
		path := f.Path
		if f.PathBase64 != "" {
			exact, err := base64.StdEncoding.DecodeString(f.PathBase64)
			must(t, err)
			path = string(exact)
		}
		var s unix.Stat_t
		if err := unix.Lstat(g.source+strings.TrimPrefix(path, "vda1:"), &s); err != nil {
			t.Errorf("%q: %v", path, err)
			continue
		}
		if f.UID != s.Uid || f.GID != s.Gid || f.Mtime.Unix() != s.Mtim.Sec || f.Size != s.Size && s.Mode&unix.S_IFMT == unix.S_IFREG {
			t.Errorf("%q: %+v, want %+v", path, f, s)
		}
	}
	if last := files[len(files)-1]; last.Target != "/etc/passwd" {
		t.Errorf("the link is %+v", last)
	}
}

func wantContent(t *testing.T, g *guest) {
	r := g.files(t, 0, "files", g.Name, "cat", "vda1:/big", "vda1:/relative", "vda1:/tree/"+hostileNames[9])
	want := ""
	for _, name := range []string{"big", "relative", "tree/" + hostileNames[9]} {
		content, err := os.ReadFile(filepath.Join(g.source, name))
		must(t, err)
		want += string(content)
	}
	if r.Stdout != want {
		t.Errorf("%d bytes differ from the %d of the source", len(r.Stdout), len(want))
	}
}

// Everything is copied but a device node, and nothing elsewhere on the host is touched.
func wantCopied(t *testing.T, g *guest) {
	dest := filepath.Join(g.Dir, "dest")
	must(t, os.Mkdir(dest, 0o700)) // where set-user-ID bits are kept
	must(t, os.WriteFile(filepath.Join(dest, "big"), []byte("mine"), 0o600))
	before := listing(t, dest)
	refused := g.files(t, 2, "files", g.Name, "cp", "vda1:/big", dest)
	if !strings.Contains(refused.Stderr, "--force") {
		t.Error(refused.Stderr)
	}
	wantSame(t, "the directory", listing(t, dest), before)
	r := g.files(t, 3, "files", g.Name, "cp", "--force", "vda1:/tree", "vda1:/big", "vda1:/passwd", "vda1:/tree/setuid", dest)
	if !strings.Contains(r.Stderr, "device node") {
		t.Errorf("nothing said of the device node: %s", r.Stderr)
	}
	wantSame(t, "the copy", listing(t, filepath.Join(dest, "tree")), listing(t, filepath.Join(g.source, "tree"), "disk"))
	for _, name := range []string{"big", "passwd"} {
		wantSame(t, name, listing(t, filepath.Join(dest, name)), listing(t, filepath.Join(g.source, name)))
	}
	wantSame(t, "setuid", listing(t, filepath.Join(dest, "setuid")), listing(t, filepath.Join(g.source, "tree", "setuid")))
	entries, err := os.ReadDir(dest)
	must(t, err)
	if len(entries) != 4 {
		t.Errorf("the directory has %v", entries)
	}
}

// A signal ends it, while the appliance boots; testdomain.Main sees that no process is left.
func wantNothingLeft(t *testing.T, g *guest) {
	dirs := func() []string {
		sockets, _ := filepath.Glob("/tmp/libguestfs*")
		temporary, _ := filepath.Glob(filepath.Join(os.TempDir(), ".virtbackup-files-*"))
		return append(sockets, temporary...)
	}
	before := dirs()
	p := g.Program.Start(t, "files", g.Name, "cat", "vda1:/big")
	testsite.Await(t, "QEMU", 100*time.Millisecond, func() bool { return len(dirs()) > len(before)+1 })
	p.Signal(syscall.SIGINT)
	if r := p.Wait(); r.Code != 128+int(syscall.SIGINT) || r.Stdout != "" {
		t.Errorf("exit %d", r.Code)
	}
	if after := dirs(); !slices.Equal(after, before) {
		t.Errorf("left: %q, before: %q", after, before)
	}
}

func wantChanges(t *testing.T, g *guest) {
	g.write(t, "added", "new")
	g.write(t, "tree/plain", "longer than it was")
	must(t, os.Remove(filepath.Join(g.source, "tree/a b")))
	must(t, os.Chmod(filepath.Join(g.source, "tree/é"), 0o600))
	g.makeDisks(t)
	g.BackUp(0, "inc")
	r := g.files(t, 0, "--json", "files", g.Name, "changed", "check1", "check2", "vda1:/")
	var said struct {
		Changes []struct {
			Path, Change string
			What         []string
		}
	}
	must(t, json.Unmarshal([]byte(r.Stdout), &said))
	var got []string
	for _, c := range said.Changes {
		// mkfs gives all files new inodes: each has another ctime.
		if what := slices.DeleteFunc(c.What, func(w string) bool { return w == "ctime" }); c.Change != "changed" || len(what) > 0 {
			got = append(got, c.Change+" "+c.Path+" "+strings.Join(what, ","))
		}
	}
	want := []string{"added vda1:/added ", "removed vda1:/tree/a b ", "changed vda1:/tree/plain size,mtime", "changed vda1:/tree/é mode"}
	if !slices.Equal(got, want) {
		t.Errorf("changed: %q, want %q", got, want)
	}
}

// A file whose bytes are damaged is never printed as if it were right.
func wantDamage(t *testing.T, g *guest) {
	image := g.Image(g.Points[0].Manifest, "vda")
	big, err := os.ReadFile(filepath.Join(g.source, "big"))
	must(t, err)
	testsite.Flip(t, image, offsetOf(t, image, big[2*mib:2*mib+4096]))
	r := g.files(t, 5, "files", g.Name+"@check1", "cat", "vda1:/big")
	if !strings.HasPrefix(string(big), r.Stdout) {
		t.Error("wrong bytes were printed")
	}
}
