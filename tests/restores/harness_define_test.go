package restores

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/restore/define"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

const mib = 1 << 20

// lose destroys and undefines the domain, and removes all of its files but the truths.
func lose(s *testsite.Site) {
	s.T.Helper()
	if s.State() != "shut" {
		s.Destroy()
	}
	testdomain.Virsh(s.T, "undefine", s.Name, "--checkpoints-metadata", "--keep-nvram")
	for _, disk := range s.Disks {
		if disk.Source != "" {
			if err := os.Remove(disk.Source); err != nil {
				s.T.Fatal(err)
			}
		}
	}
}

// newDir is the path of a directory that is not there, where QEMU may enter what is above.
func newDir(t *testing.T) string {
	t.Helper()
	return filepath.Join(testdomain.TempDir(t), "new", "vm")
}

// defined restores with --define, and returns the result.
func defined(s *testsite.Site, what, dir string, args ...string) define.Result {
	s.T.Helper()
	r := s.Program.Must(s.T, nil, append([]string{"--json", "restore", what, "--define", "--to", dir}, args...)...)
	var result define.Result
	if err := json.Unmarshal([]byte(r.Stdout), &result); err != nil {
		s.T.Fatalf("the result is no JSON: %v\n%s", err, r.Stdout)
	}
	return result
}

// copyOf is another domain that was defined from a point of s; it is removed with the test.
func copyOf(s *testsite.Site, name string) {
	s.T.Helper()
	s.T.Cleanup(func() {
		testdomain.TryVirsh(s.T, "destroy", name)
		testdomain.TryVirsh(s.T, "undefine", name, "--checkpoints-metadata", "--keep-nvram")
		testdomain.RemoveLogs(name)
	})
}

// sources are the files of a domain's disks, by target.
func sources(t *testing.T, name string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, line := range strings.Split(testdomain.Virsh(t, "domblklist", name), "\n") {
		if fields := strings.Fields(line); len(fields) == 2 {
			found[fields[0]] = fields[1]
		}
	}
	return found
}

// wantDisks checks that the disks of a domain are in dir, and show a point.
func wantDisks(s *testsite.Site, name, dir string, p testsite.Point) {
	s.T.Helper()
	disks := sources(s.T, name)
	for target, truth := range p.Truth {
		if filepath.Dir(disks[target]) != dir {
			s.T.Errorf("disk %s of %s is %s", target, name, disks[target])
			continue
		}
		testdomain.Same(s.T, disks[target], strings.TrimPrefix(filepath.Ext(disks[target]), "."), truth)
	}
}
