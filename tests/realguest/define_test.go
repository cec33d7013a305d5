//go:build realguest

package realguest

import (
	"path/filepath"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// bringUp restores a point as another domain, and starts it.
func bringUp(t *testing.T, s *testsite.Site, p testsite.Point) *testdomain.Domain {
	t.Helper()
	dir := filepath.Join(testdomain.TempDir(t), "restored")
	d := testdomain.Adopt(t, testdomain.NewName(), dir, testdomain.Disk{Target: "vda", Source: filepath.Join(dir, "vda.qcow2")},
		testdomain.Disk{Target: "vdb", Source: filepath.Join(dir, "vdb.qcow2")})
	s.Program.Must(t, nil, "restore", s.Name+"@"+p.ID, "--define", "--to", dir, "--name", d.Name, "--start")
	return d
}
