package tests

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// saysFallback is what --verbose says of an image that is not written with
// O_DIRECT though it should have been.
const saysFallback = "refuses O_DIRECT"

// withoutDirect is a directory on a file system that refuses O_DIRECT. tmpfs is
// one before Linux 6.6 only; ramfs is one on any.
func withoutDirect(t *testing.T) string {
	t.Helper()
	dir := testdomain.TempDir(t)
	testdomain.Tool(t, "mount", "-t", "ramfs", "vbtest", dir)
	t.Cleanup(func() { testdomain.Tool(t, "umount", dir) })
	if takesDirect(t, dir) {
		t.Fatal("ramfs takes O_DIRECT: the fallback needs another file system to be tested on")
	}
	return dir
}

// takesDirect finds out, without virtbackup, whether files in a directory can be
// written with O_DIRECT.
func takesDirect(t *testing.T, dir string) bool {
	t.Helper()
	path := filepath.Join(dir, "probe")
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_WRONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0o600)
	if err == nil {
		unix.Close(fd)
	} else if !errors.Is(err, unix.EINVAL) {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

// tuning is how a point is made.
type tuning struct {
	compress, direct string // as the options have them
}

func (u tuning) args() []string { return []string{"--compress", u.compress, "--direct", u.direct} }

// tuned makes a point that way, and sees that each image is compressed or not,
// and that --verbose says whether O_DIRECT was refused.
func (s *site) tuned(u tuning, kind string, args ...string) manifest.Manifest {
	s.t.Helper()
	truth := s.truths()
	all := append(append([]string{"--json", "--verbose", kind, s.Name}, args...), u.args()...)
	r := s.program.Must(s.t, s.codes(), all...)
	p := s.add(r, truth).Point
	want := 0
	if u.direct == "auto" && !takesDirect(s.t, s.repo) {
		want = len(p.Disks)
	}
	if got := strings.Count(r.Stderr, saysFallback); got != want {
		s.t.Errorf("%s with %+v: --verbose says %d times that the file system %s, want %d", p.ID, u, got, saysFallback, want)
	}
	for _, d := range p.Disks {
		s.wantCompression(s.image(p, d.Target), u)
	}
	return p
}

// codes are the exit statuses that a point may be made with: a rescan is worth a
// warning.
func (s *site) codes() []int {
	if s.mayWarn {
		return []int{0, 3}
	}
	return []int{0}
}

// wantCompression sees what qemu-img says of an image.
func (s *site) wantCompression(image string, u tuning) {
	s.t.Helper()
	var info struct {
		Specific struct {
			Data struct {
				Type string `json:"compression-type"`
			} `json:"data"`
		} `json:"format-specific"`
	}
	text := testdomain.Tool(s.t, "qemu-img", "info", "--output=json", "-f", "qcow2", image)
	if err := json.Unmarshal([]byte(text), &info); err != nil {
		s.t.Fatal(err)
	}
	zstd := strings.HasPrefix(u.compress, "zstd")
	if got := info.Specific.Data.Type; (got == "zstd") != zstd {
		s.t.Errorf("%s, made with --compress %s, has the compression type %s", image, u.compress, got)
	}
}

// move moves the repository to another file system, as an administrator may
// between two runs.
func (s *site) move(dir string) {
	s.t.Helper()
	old := s.repo
	s.at(dir)
	if _, err := os.Lstat(old); errors.Is(err, os.ErrNotExist) {
		return // nothing is there yet
	}
	// The one that newSite made may be there, empty: cp would copy into it.
	if err := os.RemoveAll(s.repo); err != nil {
		s.t.Fatal(err)
	}
	testdomain.Tool(s.t, "cp", "-a", old, s.repo)
	if err := os.RemoveAll(old); err != nil {
		s.t.Fatal(err)
	}
}

// noise is a file of a MiB that nothing compresses, for qemu-io's write -s.
func (s *site) noise() string {
	s.t.Helper()
	path := filepath.Join(s.Dir, "noise")
	if _, err := os.Lstat(path); err == nil {
		return path
	}
	data := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(data)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// Chains are mixed both ways, compressed on plain and plain on compressed, with
// and without O_DIRECT; a file system that refuses it is no error unless
// somebody insists, and is told with --verbose.
func TestMixedChains(t *testing.T) {
	t.Parallel()
	disk, ram := testdomain.TempDir(t), withoutDirect(t)
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 24 << 20}, testdomain.Disk{Target: "vdb", Size: 12<<20 + 512}))
	for i, c := range []struct {
		dir  string
		u    tuning
		kind string
	}{
		{ram, tuning{"zstd", "auto"}, "full"},
		{ram, tuning{"none", "auto"}, "inc"},
		{ram, tuning{"zstd:9", "never"}, "inc"},
		{disk, tuning{"none", "auto"}, "full"},
		{disk, tuning{"zstd:1", "auto"}, "inc"},
		{disk, tuning{"none", "never"}, "diff"},
		{ram, tuning{"none", "auto"}, "inc"}, // of files that were written elsewhere
	} {
		s.writeAll(int64(i + 1))
		s.IO("vda", fmt.Sprintf("write -s %s 16M 1M", s.noise()))
		s.Write("vda", int64(9+i)<<20, 1<<20, byte(0x41+i)) // of this image alone
		moved := !strings.HasPrefix(s.repo, c.dir)
		if moved {
			s.move(c.dir)
		}
		s.mayWarn = moved // it says that it was
		s.tuned(c.u, c.kind)
	}
	s.refused(1, "hint: --direct auto", "inc", s.Name, "--direct", "always")
	s.restoredWithoutDirect(ram)
	s.check()
}

// restoredWithoutDirect restores to a file system that refuses O_DIRECT, too.
func (s *site) restoredWithoutDirect(dir string) {
	s.t.Helper()
	p := s.points[len(s.points)-1]
	for _, format := range []string{"qcow2", "raw"} {
		to := filepath.Join(dir, "restored-"+format)
		r := s.program.Must(s.t, nil, "restore", s.Name, "--verbose", "--to", to, "--at", p.ID, "--format", format)
		if got := strings.Count(r.Stderr, saysFallback); got != len(p.Disks) {
			s.t.Errorf("restore --verbose says %d times that the file system %s, want %d", got, saysFallback, len(p.Disks))
		}
		for _, d := range p.Disks {
			testdomain.Same(s.t, filepath.Join(to, d.Target+"."+format), format, p.truth[d.Target])
		}
	}
}
