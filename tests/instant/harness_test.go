package instant

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/keep"
	"github.com/virtbackup/virtbackup/restore/instant"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

const mib = 1 << 20

// slowly holds a pull for as long as a test needs; --resume without it ends that.
const slowly = "64K"

// newSite is a domain with a qcow2 and a raw disk, a full and an inc of it, which is then shut off.
func newSite(t *testing.T) *testsite.Site {
	t.Helper()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 * mib}, testdomain.Disk{Target: "vdb", Size: 8 * mib, Format: "raw"}))
	s.Write("vda", 0, 6*mib, 0x11)
	s.Write("vdb", mib, 2*mib, 0x12)
	s.BackUp(0, "full")
	s.Write("vda", 2*mib, 2*mib, 0x21)
	s.IO("vda", "write -z 1M 512k")
	s.BackUp(0, "inc")
	s.Destroy()
	return s
}

// restored is a domain of a name of its own, to be made from the newest point of a site.
type restored struct {
	*testsite.Site
	*testdomain.Domain
	dir        string
	repository string // what it was
}

func newRestored(t *testing.T, s *testsite.Site) *restored {
	t.Helper()
	name, dir := testdomain.NewName(), filepath.Join(testdomain.TempDir(t), "vm")
	r := &restored{Site: s, Domain: s.Other(name, "", dir), dir: dir, repository: testsite.Listing(t, s.Repo)}
	t.Cleanup(func() {
		testdomain.TryVirsh(t, "destroy", name)
		testdomain.TryVirsh(t, "undefine", name, "--nvram")
		r.removeServer()
		testdomain.RemoveLogs(name)
	})
	return r
}

// removeServer removes what a test has left of a server: without its repository it would never end.
func (r *restored) removeServer() {
	if pid := r.server(); pid != 0 {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	pins, _, _ := keep.Pins(filepath.Join(r.Repo, r.Site.Name))
	for _, pin := range pins {
		if pin.Runs != nil && strings.HasPrefix(filepath.Base(pin.Runs.Socket), "virtbackup-instant-") {
			os.Remove(pin.Runs.Socket)
			os.Remove(pin.Runs.Socket + ".log")
		}
	}
}

// begin are the arguments that begin the restore.
func (r *restored) begin(args ...string) []string {
	return append([]string{"--json", "restore", r.Site.Name, "--instant", "--to", r.dir, "--name", r.Domain.Name}, args...)
}

// resume are those that go on.
func (r *restored) resume(args ...string) []string {
	return append([]string{"--json", "restore", r.Site.Name, "--to", r.dir, "--resume"}, args...)
}

// slow has the domain run while its data hardly comes.
func (r *restored) slow() *testdomain.Process {
	r.T.Helper()
	p := r.Program.Start(r.T, r.begin("--limit-rate", slowly)...)
	r.awaitRunning(p)
	return p
}

func (r *restored) awaitRunning(p *testdomain.Process) {
	r.T.Helper()
	testsite.Await(r.T, "the domain to run", 50*time.Millisecond, func() bool {
		state, err := testdomain.StateOf(r.Domain.Name)
		return err == nil && state == "running"
	})
	testsite.Await(r.T, "a pull", 50*time.Millisecond, func() bool {
		out, err := testdomain.TryVirsh(r.T, "blockjob", r.Domain.Name, "vda", "--raw")
		return err == nil && strings.Contains(out, "Pull")
	})
}

// killed kills a process, and waits until it is gone.
func killed(p *testdomain.Process) {
	p.Signal(syscall.SIGKILL)
	p.Wait()
}

// server is the process that serves the point.
func (r *restored) server() int {
	r.T.Helper()
	found, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range found {
		line, _ := os.ReadFile(path)
		if args := bytes.Split(line, []byte{0}); len(args) > 3 && string(args[2]) == r.Repo && string(args[3]) == "serve" {
			pid, _ := strconv.Atoi(strings.Split(path, "/")[2])
			return pid
		}
	}
	return 0
}

func (r *restored) killServer() {
	r.T.Helper()
	pid := r.server()
	if pid == 0 {
		r.T.Fatal("there is no server")
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		r.T.Fatal(err)
	}
}

// pin is the one of the point, nil if there is none.
func (r *restored) pin() *keep.Pin {
	r.T.Helper()
	pins, damaged, err := keep.Pins(filepath.Join(r.Repo, r.Site.Name))
	if err != nil || len(damaged) > 0 || len(pins) > 1 {
		r.T.Fatalf("pins %+v, %v, %v", pins, damaged, err)
	}
	if len(pins) == 0 {
		return nil
	}
	return &pins[0]
}

// wantNothingLeft sees that neither pin nor server nor socket is left, and that the repository is what it
// was.
func (r *restored) wantNothingLeft(socket string) {
	r.T.Helper()
	testsite.Await(r.T, "the end of the server", 20*time.Millisecond, func() bool { return r.server() == 0 })
	if after := testsite.Listing(r.T, r.Repo); after != r.repository {
		r.T.Errorf("the repository was\n%s\nand is\n%s", r.repository, after)
	}
	for _, path := range []string{socket, socket + ".log"} {
		if _, err := os.Lstat(path); err == nil && socket != "" {
			r.T.Errorf("%s is left", path)
		}
	}
}

// wantAlone ends the domain and sees that its images stand alone and show the point, changed by what
// writes says of vda.
func (r *restored) wantAlone(writes ...write) {
	r.T.Helper()
	if r.Domain.State() != "shut" {
		r.Domain.Destroy()
	}
	for target, truth := range r.Points[len(r.Points)-1].Truth {
		image := filepath.Join(r.dir, target+".qcow2")
		testdomain.CheckImage(r.T, image)
		if h := testdomain.HeaderOf(r.T, image); h.BackingFileOffset != 0 {
			r.T.Errorf("%s has a backing file", image)
		}
		if target == "vda" && len(writes) > 0 {
			truth = written(r.T, truth, writes)
		}
		testdomain.Same(r.T, image, "qcow2", truth)
	}
	r.wantXML()
}

// wantXML sees that the disks' policies are what they were.
func (r *restored) wantXML() {
	r.T.Helper()
	if doc := testdomain.Virsh(r.T, "dumpxml", r.Domain.Name, "--inactive"); strings.Contains(doc, "error_policy") {
		r.T.Errorf("the disks still have other policies: %s", doc)
	}
}

// write is one of the guest while its data comes home.
type write struct {
	offset, length int64
	pattern        byte
}

func (w write) String() string {
	return fmt.Sprintf("write -P %d %d %d", w.pattern, w.offset, w.length)
}

// write writes to vda of the domain that was restored.
func (r *restored) write(writes ...write) {
	r.T.Helper()
	var commands []string
	for _, w := range writes {
		commands = append(commands, w.String())
	}
	r.Domain.IO("vda", commands...)
}

// written is a copy of a truth with what was written to it.
func written(t *testing.T, truth string, writes []write) string {
	t.Helper()
	data, err := os.ReadFile(truth)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range writes {
		copy(data[w.offset:], bytes.Repeat([]byte{w.pattern}, int(w.length)))
	}
	path := filepath.Join(t.TempDir(), "truth")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// result is the report of a restore.
func result(t *testing.T, r testdomain.Result) (v instant.Result) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.Stdout), &v); err != nil {
		t.Fatalf("the result is no JSON: %v\n%s", err, r.Stdout)
	}
	return v
}

// faulty is the program, broken at points.
func (r *restored) faulty(faults string) testdomain.Program {
	program := r.Program
	program.Binary = testdomain.FaultyBinary(r.T)
	program.Env = append(slices.Clone(program.Env), faults)
	return program
}

// gone tells whether libvirt does not know the domain.
func (r *restored) gone() bool {
	_, err := testdomain.TryVirsh(r.T, "domuuid", r.Domain.Name)
	return err != nil
}
