package bench

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// atOnce are a domain that runs from a point: the time until it runs, and that until its data is home.
var atOnce = []way{
	{"instant-runs", func(s *stage) contestant { return s.instant(false) }},
	{"instant-pull", func(s *stage) contestant { return s.instant(true) }},
}

// instant makes another domain run from the newest point of the base repository. What is timed is the
// way until it runs, or the pull after that. The memory is that of virtbackup, which supervises, and
// of its server.
func (s *stage) instant(pull bool) contestant {
	var name string
	begin := func(r *turn) {
		name = testdomain.NewName()
		dir := filepath.Join(r.dir, "vm")
		r.startHelper(testdomain.Binary(s.t), "--repo", s.base, "--quiet", "restore", s.Name, "--instant", "--to", dir, "--name", name)
		s.awaitRunning(name)
	}
	end := func(r *turn) {
		r.helper.wait(false)
		r.charge(r.helper)
		r.Peak += r.helper.peak()
	}
	c := contestant{work: begin, after: func(r *turn) { // to pull a disk of 1 TiB takes long: QEMU copies its holes, too
		r.endHelper()
		testdomain.Tool(s.t, testdomain.Binary(s.t), "--repo", s.base, "--quiet", "restore", s.Name, "--to", filepath.Join(r.dir, "vm"), "--abandon", "--yes")
		testdomain.RemoveLogs(name)
	}}
	if pull {
		c.before, c.work = begin, func(r *turn) {
			end(r)
			r.sync(filepath.Join(r.dir, "vm", "vda.qcow2"))
		}
		c.after = func(r *turn) {
			s.removeInstant(name) // what QEMU has not written yet is in the image then
			testdomain.Tool(s.t, "qemu-img", "compare", "-U", "-f", "qcow2", "-F", "qcow2", filepath.Join(r.dir, "vm", "vda.qcow2"), s.truth)
		}
	}
	return c
}

// awaitRunning waits until a domain runs.
func (s *stage) awaitRunning(name string) {
	s.t.Helper()
	for start := time.Now(); time.Since(start) < time.Minute; time.Sleep(10 * time.Millisecond) {
		// libvirt makes it before QEMU is asked for anything, so most looks cost no process.
		if _, err := os.Stat("/run/libvirt/qemu/" + name + ".pid"); err != nil {
			continue
		}
		if state, err := testdomain.TryVirsh(s.t, "domstate", name); err == nil && strings.HasPrefix(state, "running") {
			return
		}
	}
	s.t.Fatalf("%s does not run", name)
}

func (s *stage) removeInstant(name string) {
	testdomain.Virsh(s.t, "destroy", name)
	testdomain.Virsh(s.t, "undefine", name)
	testdomain.RemoveLogs(name)
}
