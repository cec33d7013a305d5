package chains

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
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

// tuning is the set of options that a point is made with.
type tuning struct {
	compress, direct string // values of the options
}

func (u tuning) args() []string { return []string{"--compress", u.compress, "--direct", u.direct} }

// tuned makes a point with that tuning, and checks that the images are compressed as asked,
// and that --verbose says whether O_DIRECT was refused.
func tuned(s *testsite.Site, u tuning, kind string, args ...string) manifest.Manifest {
	s.T.Helper()
	truth := s.Truths()
	all := append(append([]string{"--json", "--verbose", kind, s.Name}, args...), u.args()...)
	r := s.Program.Must(s.T, codes(s), all...)
	p := s.Add(r, truth).Point
	want := 0
	if u.direct == "auto" && !takesDirect(s.T, s.Repo) {
		want = len(p.Disks)
	}
	if got := strings.Count(r.Stderr, saysFallback); got != want {
		s.T.Errorf("%s with %+v: --verbose says %d times that the file system %s, want %d", p.ID, u, got, saysFallback, want)
	}
	for _, d := range p.Disks {
		wantCompression(s, s.Image(p, d.Target), u)
	}
	return p
}

// codes are the exit statuses that a run may have: a rescan is reported as a warning.
func codes(s *testsite.Site) []int {
	if s.MayWarn {
		return []int{0, 3}
	}
	return []int{0}
}

// wantCompression checks what qemu-img says about an image.
func wantCompression(s *testsite.Site, image string, u tuning) {
	s.T.Helper()
	var info struct {
		Specific struct {
			Data struct {
				Type string `json:"compression-type"`
			} `json:"data"`
		} `json:"format-specific"`
	}
	text := testdomain.Tool(s.T, "qemu-img", "info", "--output=json", "-f", "qcow2", image)
	if err := json.Unmarshal([]byte(text), &info); err != nil {
		s.T.Fatal(err)
	}
	zstd := strings.HasPrefix(u.compress, "zstd")
	if got := info.Specific.Data.Type; (got == "zstd") != zstd {
		s.T.Errorf("%s, made with --compress %s, has the compression type %s", image, u.compress, got)
	}
}

// move moves the repository to another file system, as an administrator may
// between two runs.
func move(s *testsite.Site, dir string) {
	s.T.Helper()
	old := s.Repo
	s.At(dir)
	if _, err := os.Lstat(old); errors.Is(err, os.ErrNotExist) {
		return // it does not exist yet
	}
	// The one that testsite.New made may be there, empty: cp would copy into it.
	if err := os.RemoveAll(s.Repo); err != nil {
		s.T.Fatal(err)
	}
	testdomain.Tool(s.T, "cp", "-a", old, s.Repo)
	if err := os.RemoveAll(old); err != nil {
		s.T.Fatal(err)
	}
}

// Chains may be mixed both ways, compressed on plain and plain on compressed, with and
// without O_DIRECT. A file system that refuses O_DIRECT is an error only with --direct
// always; --verbose reports it.
func TestMixedChains(t *testing.T) {
	t.Parallel()
	disk, ram := testdomain.TempDir(t), withoutDirect(t)
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 24 << 20}, testdomain.Disk{Target: "vdb", Size: 12<<20 + 512}))
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
		s.WriteAll(int64(i + 1))
		s.IO("vda", fmt.Sprintf("write -s %s 16M 1M", s.Noise()))
		s.Write("vda", int64(9+i)<<20, 1<<20, byte(0x41+i)) // of this image alone
		moved := !strings.HasPrefix(s.Repo, c.dir)
		if moved {
			move(s, c.dir)
		}
		s.MayWarn = moved // a warning says that it was
		tuned(s, c.u, c.kind)
	}
	s.Refused(1, "hint: --direct auto", "inc", s.Name, "--direct", "always")
	restoredWithoutDirect(s, ram)
	s.Check()
}

// restoredWithoutDirect restores to a file system that refuses O_DIRECT, too.
func restoredWithoutDirect(s *testsite.Site, dir string) {
	s.T.Helper()
	p := s.Points[len(s.Points)-1]
	for _, format := range []string{"qcow2", "raw"} {
		to := filepath.Join(dir, "restored-"+format)
		r := s.Program.Must(s.T, nil, "restore", s.Name, "--verbose", "--to", to, "--at", p.ID, "--format", format)
		if got := strings.Count(r.Stderr, saysFallback); got != len(p.Disks) {
			s.T.Errorf("restore --verbose says %d times that the file system %s, want %d", got, saysFallback, len(p.Disks))
		}
		for _, d := range p.Disks {
			testdomain.Same(s.T, filepath.Join(to, d.Target+"."+format), format, p.Truth[d.Target])
		}
	}
}
