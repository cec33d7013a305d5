package bench

import (
	"errors"
	"fmt"
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
	{"pull-qemu-nbd", (*stage).pullFromQEMU},
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
		abandon := []string{"--repo", s.base, "--quiet", "restore", s.Name, "--to", filepath.Join(r.dir, "vm"), "--abandon", "--yes"}
		if err := testdomain.TryTool(s.t, testdomain.Binary(s.t), abandon...); err != nil { // all was pulled already, perhaps
			testdomain.Tool(s.t, testdomain.Binary(s.t), "--repo", s.base, "--quiet", "recover", s.Name)
			s.removeInstant(name)
		}
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

// pullFromQEMU has a domain pull the same data from qemu-nbd, which proves nothing: how long QEMU takes for
// that. Its overlay has zeros where the disk has holes, as ours has: so none are pulled.
func (s *stage) pullFromQEMU() contestant {
	var name, image string
	return contestant{
		before: func(r *turn) {
			socket := filepath.Join(r.dir, "socket")
			r.startHelper("qemu-nbd", "--read-only", "--persistent", "--format=qcow2", "--shared=8", "--export-name=vda", "--socket="+socket, s.point(s.base, s.newest()))
			s.await(socket)
			name, image = testdomain.NewName(), filepath.Join(r.dir, "overlay.qcow2")
			testdomain.Tool(s.t, "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "nbd+unix:///vda?socket="+socket, image, fmt.Sprint(s.size))
			runScript(s.t, image, zeros(s.size, s.data))
			definition := filepath.Join(r.dir, "domain.xml")
			err := errors.Join(os.Chmod(socket, 0o666), os.WriteFile(definition, fmt.Appendf(nil, `<domain type='qemu'><name>%s</name><memory unit='MiB'>64</memory>`+
				`<os><type arch='x86_64' machine='pc'>hvm</type></os><devices><controller type='usb' model='none'/><memballoon model='none'/><disk type='file' device='disk'>`+
				`<driver name='qemu' type='qcow2'/><source file='%s'/><target dev='vda' bus='virtio'/></disk></devices></domain>`, name, image), 0o600))
			if err != nil {
				s.t.Fatal(err)
			}
			testdomain.Virsh(s.t, "create", definition)
		},
		work: func(r *turn) {
			r.run("virsh", "-c", testdomain.URI, "blockpull", name, "vda", "--wait")
			r.sync(image)
		},
		after: func(r *turn) {
			testdomain.Virsh(s.t, "destroy", name)
			testdomain.RemoveLogs(name)
			r.endHelper()
		},
	}
}

// zeros are the commands of qemu-io that write zeros where newImage has no data.
func zeros(size, data int64) (commands []string) {
	for i := range int64(runs) {
		commands = append(commands, fmt.Sprintf("write -q -z %d %d", size/runs*i+data/runs, (size-data)/runs))
	}
	return commands
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
