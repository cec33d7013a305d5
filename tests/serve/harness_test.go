package serve

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// chainSite has a full, an inc that is compressed and an inc, of disks with data, zeros and a size
// that is no multiple of a cluster.
func chainSite(t *testing.T) *testsite.Site {
	t.Helper()
	s := testsite.Filled(t)
	s.BackUp(0, "full")
	s.WriteAll(2)
	s.IO("vda", "write -z 9M 1M", "write -P 0x31 10M 300k")
	s.BackUp(0, "inc", "--compress", "zstd")
	s.WriteAll(3)
	s.IO("vdb", "write -z 5M 100k", "discard 6M 1M")
	s.BackUp(0, "inc")
	return s
}

// served is a point that is being served on a socket.
type served struct {
	*testdomain.Process
	t      *testing.T
	socket string
}

// serve serves a point, DOMAIN@POINT, until the test ends or earlier.
func serve(t *testing.T, s *testsite.Site, point string, args ...string) *served {
	t.Helper()
	// One for each test: those of one site run side by side.
	v := &served{t: t, socket: filepath.Join(s.Dir, strings.ReplaceAll(filepath.Base(t.Name()), " ", "-")+".sock")}
	v.Process = s.Program.Start(t, append([]string{"--json", "serve", s.Name + "@" + point, "--socket", v.socket}, args...)...)
	testsite.Await(t, "the socket", 20*time.Millisecond, func() bool { return listens("unix", v.socket) })
	return v
}

// listens tells whether somebody listens at an address.
func listens(network, address string) bool {
	conn, err := net.Dial(network, address)
	if err == nil {
		conn.Close()
	}
	return err == nil
}

func (v *served) uri(target string) string { return "nbd+unix:///" + target + "?socket=" + v.socket }

// end ends it as an administrator would, and sees that nothing is left.
func (v *served) end() testdomain.Result {
	v.t.Helper()
	v.Signal(syscall.SIGTERM)
	r := v.Wait()
	if r.Code != 128+int(syscall.SIGTERM) {
		v.t.Errorf("exit %d", r.Code)
	}
	if _, err := os.Lstat(v.socket); !os.IsNotExist(err) {
		v.t.Errorf("the socket is left: %v", err)
	}
	return r
}

// wantTruth compares all disks that are served with what they were.
func (v *served) wantTruth(p testsite.Point) {
	v.t.Helper()
	for _, d := range p.Disks {
		copied := filepath.Join(v.t.TempDir(), d.Target)
		testdomain.Tool(v.t, "nbdcopy", v.uri(d.Target), copied)
		testsite.SameBytes(v.t, copied, p.Truth[d.Target])
		testdomain.Tool(v.t, "qemu-img", "compare", "-f", "raw", "-F", "raw", v.uri(d.Target), p.Truth[d.Target])
	}
}

// imageOf is the image of a disk of a point in the repository.
func imageOf(s *testsite.Site, m manifest.Manifest, target string) string {
	return filepath.Join(s.Repo, s.Name, m.ID, testsite.DiskOf(s.T, m, target).Image)
}
