package restores

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// What only one running domain can have, the copy of one that runs has in places of its own:
// both run, and each has its files and sockets.
func TestDefineBesideWithSockets(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.DefineWith(t, "<boot dev='hd'/>", `
		<serial type='file'><source path='@DIR@/serial.log'/><target port='0'/></serial>
		<serial type='unix'><source mode='bind' path='@DIR@/serial.sock'/><log file='@DIR@/socket.log'/><target port='1'/></serial>
		<channel type='unix'><source mode='bind' path='@DIR@/agent.sock'/><target type='virtio' name='org.example.0'/></channel>
		<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
		<graphics type='vnc' port='5987' autoport='no'><listen type='address' address='127.0.0.1'/></graphics>
		<interface type='user'><mac address='00:16:3e:11:22:33'/></interface>`, testdomain.Disk{Target: "vda", Size: mib}))
	s.Start()
	s.BackUp(0, "full")
	name := testdomain.NewName()
	copyOf(s, name)
	dir := newDir(t)
	result := defined(s, s.Name, dir, "--name", name, "--start")
	doc := testdomain.Virsh(t, "dumpxml", name, "--inactive")
	for _, theirs := range []string{s.Dir, "5987", "00:16:3e:11:22:33", s.UUID, "<name>" + s.Name + "<"} {
		if strings.Contains(doc, theirs) {
			t.Errorf("the copy has %s of the original: %s", theirs, doc)
		}
	}
	for _, of := range []string{s.Dir, dir} {
		for _, file := range []string{"serial.log", "serial.sock", "socket.log"} {
			if _, err := os.Stat(filepath.Join(of, file)); err != nil {
				t.Error(err)
			}
		}
	}
	if _, err := os.Stat(filepath.Join(s.Dir, "agent.sock")); err != nil {
		t.Errorf("the socket of the original's agent: %v", err)
	}
	for _, domain := range []string{s.Name, name} {
		if state := testdomain.Virsh(t, "domstate", domain); strings.HasPrefix(state, "shut") {
			t.Errorf("%s is %s", domain, state)
		}
	}
	t.Logf("%q", result.Changes)
}

// A copy writes to no disk of the original, and takes no socket of one that runs: what is not
// in the point is left out.
func TestDefineBesideWithoutADisk(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.DefineWith(t, "<boot dev='hd'/>", `
		<rng model='virtio'><backend model='egd' type='unix'><source mode='bind' path='@DIR@/rng.sock'/></backend></rng>`,
		testdomain.Disk{Target: "vda", Size: mib}, testdomain.Disk{Target: "vdb", Size: mib, Format: "raw"}))
	s.Start()
	s.BackUp(0, "full", "--exclude", "vdb")
	s.Destroy()
	name := testdomain.NewName()
	copyOf(s, name)
	dir := newDir(t)
	result := defined(s, s.Name, dir, "--name", name, "--start") // nothing locks the original's disk
	if got := sources(t, name); len(got) != 1 || got["vda"] != filepath.Join(dir, "vda.qcow2") {
		t.Errorf("the copy has the disks %v", got)
	}
	if notes := strings.Join(result.Changes, "\n"); !strings.Contains(notes, "disk vdb is not in the point and left out of the copy") {
		t.Errorf("told %s", notes)
	}
	if doc := testdomain.Virsh(t, "dumpxml", name, "--inactive"); strings.Contains(doc, s.Dir) {
		t.Errorf("the copy has files of the original: %s", doc)
	}
	s.Start()
	for _, of := range []string{s.Dir, dir} {
		if _, err := os.Stat(filepath.Join(of, "rng.sock")); err != nil {
			t.Error(err)
		}
	}
}

// A disk that was attached to the running domain alone is in the point, and not in the configuration:
// the domain is defined without it, and that is said.
func TestDefineWithADiskOfTheRunningDomain(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: mib}))
	s.MayWarn = true
	live := filepath.Join(s.Dir, "live.qcow2")
	testdomain.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", live, "2M")
	testdomain.Tool(t, "qemu-io", "-f", "qcow2", "-c", "write -q -P 0x55 0 1M", live)
	testdomain.Virsh(t, "attach-disk", s.Name, live, "vdc", "--live", "--driver", "qemu", "--subdriver", "qcow2")
	s.BackUp(0, "full")
	lose(s)
	dir := newDir(t)
	r := s.Program.Must(t, []int{3}, "restore", s.Name, "--define", "--to", dir)
	if !strings.Contains(r.Stderr, "disk vdc") {
		t.Error("it does not say that the domain has no disk vdc")
	}
	if got := sources(t, s.Name); len(got) != 1 || got["vda"] != filepath.Join(dir, "vda.qcow2") {
		t.Errorf("the domain has the disks %v", got)
	}
	testdomain.QemuIO(t, filepath.Join(dir, "vdc.qcow2"), "qcow2", "read -P 0x55 0 1M")
}
