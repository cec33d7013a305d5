package offline

import (
	"fmt"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// A disk that is left out may be in use by others, such as another domain that has it by now, although
// earlier checkpoints cover it.
func TestLeftOutDiskInUse(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 * mib}, testdomain.Disk{Target: "vdb", Size: 8 * mib}))
	s.WriteAll(1)
	s.BackUp(0, "full")
	s.WriteAll(2)
	s.Destroy()
	truth := s.Truths()
	pid := s.Dir + "/pid"
	testdomain.Tool(t, "qemu-nbd", "-t", "--fork", "--pid-file", pid, "-f", "qcow2", "-k", s.Dir+"/nbd", s.Disk("vdb").Source)
	t.Cleanup(func() {
		testdomain.Tool(t, "sh", "-c", fmt.Sprintf("p=$(cat %s) && kill $p && while kill -0 $p 2>/dev/null; do sleep 0.05; done", pid))
	})
	r := s.Program.Run(t, "--json", "inc", s.Name, "--exclude", "vdb")
	if r.Code != 0 {
		t.Fatalf("exit %d", r.Code)
	}
	testsite.WantKinds(t, s.Add(r, truth).Point, "vda inc")
	s.Check()
	wantClean(s)
}
