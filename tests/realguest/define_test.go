//go:build realguest

package realguest

import (
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// bringUp restores a point as another domain, and starts it: every other one runs from the point while
// its data comes home.
func bringUp(t *testing.T, s *testsite.Site, p testsite.Point) *testdomain.Domain {
	t.Helper()
	dir := filepath.Join(testdomain.TempDir(t), "restored")
	d := testdomain.Adopt(t, testdomain.NewName(), dir, testdomain.Disk{Target: "vda", Source: filepath.Join(dir, "vda.qcow2")},
		testdomain.Disk{Target: "vdb", Source: filepath.Join(dir, "vdb.qcow2")})
	way := []string{"--define", "--start"}
	if n, _ := strconv.Atoi(strings.TrimLeft(p.ID, "chekdif")); n%2 == 0 {
		way = []string{"--instant"}
	}
	s.Program.Must(t, nil, append([]string{"restore", s.Name + "@" + p.ID, "--to", dir, "--name", d.Name}, way...)...)
	return d
}
