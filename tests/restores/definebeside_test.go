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
