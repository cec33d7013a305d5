package repository

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/diskimage"
	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/manifest"
)

// readErrorChild names, in the environment of a test that strace runs, what it reads.
const readErrorChild = "VIRTBACKUP_TEST_READS"

// reads returns what a test that strace runs is to read, and "" in others. strace counts the calls of each
// thread (when=1), so the test keeps the one that it is on: a second attempt on another would be its first.
func reads() string {
	what := os.Getenv(readErrorChild)
	if what != "" {
		runtime.LockOSThread()
	}
	return what
}

// underStrace runs the calling test again, where calls on a file fail as strace's inject=
// says, and returns what it prints.
func underStrace(t *testing.T, file, reads, inject string) string {
	t.Helper()
	cmd := exec.Command("strace", "-f", "-qq", "-o", "/dev/null", "-P", file, "-e", "inject="+inject, os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), readErrorChild+"="+reads)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// verdict prints whether an error is one of damage.
func verdict(what string, err error) {
	var damaged *damage.Error
	fmt.Printf("%s: damage %v, now %v: %v\n", what, errors.As(err, &damaged), damaged == nil || damaged.NotNow() == nil, err)
}

// A bad sector that is read past the page cache is ENODATA: damage, as EIO is.
func TestBadSectorIsDamage(t *testing.T) {
	if path := reads(); path != "" {
		reader, closeReader := diskimage.OpenImage(context.Background(), diskimage.Link{Point: manifest.Manifest{ID: "check1", Domain: "vm1"}, Path: path,
			Disk: manifest.Disk{Target: "vda", Image: "vda.qcow2", ImageBytes: 1 << 20}}, hashlist.ReadOptions{})
		defer closeReader()
		_, err := reader.ReadAt(directio.Buffer(hashlist.FirstRangeLength), 0)
		verdict("image", err)
		return
	}
	path := filepath.Join(t.TempDir(), "vda.qcow2")
	mustWrite(t, path, strings.Repeat("x", 1<<20))
	for errno, want := range map[string]string{"ENODATA": "true", "EIO": "true", "ESTALE": "false", "EMFILE": "false"} {
		if out := underStrace(t, path, path, "pread64:error="+errno); !strings.Contains(out, "image: damage "+want) {
			t.Errorf("%s: %s", errno, out)
		}
	}
}

// What fails once only, or because a server is away, is no damage, in headers and
// manifests either; what storage cannot read twice is.
func TestReadThatFailsOnce(t *testing.T) {
	const domain = "vbtest-format2"
	if dir := reads(); dir != "" {
		r, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		_, err = pointsOf(r, domain)
		verdict("points", err)
		_, err = r.Links(domain, "check1", "vda")
		verdict("links", err)
		return
	}
	dir := t.TempDir()
	if out, err := exec.Command("tar", "xzf", "../tests/chains/testdata/repositories/format2.tar.gz", "-C", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	dir = filepath.Join(dir, "repo")
	for _, c := range []struct{ file, inject, want string }{
		{"check9/manifest.json", "read:error=EIO:when=1", "points: damage false"},
		{"check9/manifest.json", "read:error=EIO", "points: damage true, now true"},
		{"check9/manifest.json", "read:error=ESTALE", "points: damage true, now false"},
		{"check1/vda.qcow2", "pread64:error=EIO:when=1", "links: damage false"},
		{"check1/vda.qcow2", "pread64:error=EIO", "links: damage true"},
		{"check1/vda.qcow2", "pread64:error=ESTALE", "links: damage false"},
	} {
		if out := underStrace(t, filepath.Join(dir, domain, c.file), dir, c.inject); !strings.Contains(out, c.want) {
			t.Errorf("%s, %s: want %q in\n%s", c.file, c.inject, c.want, out)
		}
	}
}
