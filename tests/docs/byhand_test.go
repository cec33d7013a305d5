package docs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// recipe is the block of commands in docs/restore-by-hand.md that starts a restored guest, split after
// the values that the reader fills in.
func recipe(t *testing.T) (values, commands string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(testdomain.Root(t), "docs/restore-by-hand.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(text), "\n    POINT=")
	block, _, ok := strings.Cut(block, "\n\nThe `grep` shows")
	values, commands, ok2 := strings.Cut(block, "\n\n")
	if !ok || !ok2 {
		t.Fatal("docs/restore-by-hand.md has no recipe where this test looks for it")
	}
	return values, commands
}

// talkative is a running domain with every device that a second domain of the same definition
// would share with it.
func talkative(t *testing.T) *testsite.Site {
	t.Helper()
	s := testsite.New(t, testdomain.Define(t, testdomain.Disk{Target: "vda", Size: 16 << 20}))
	agent := filepath.Join("/var/lib/libvirt/qemu", s.Name+".agent")
	t.Cleanup(func() { _ = os.Remove(agent) })
	doc := strings.Replace(testdomain.Virsh(t, "dumpxml", "--inactive", s.Name), "</devices>",
		fmt.Sprintf(`<interface type='user'><mac address='52:54:00:12:34:56'/><model type='virtio'/></interface>
<serial type='file'><source path='%s/serial.log'/></serial>
<channel type='unix'><source mode='bind' path='%s'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
</devices>`, s.Dir, agent), 1)
	file := filepath.Join(s.Dir, "talkative.xml")
	testsite.WriteFile(t, file, doc)
	testdomain.Virsh(t, "define", file)
	s.Start()
	return s
}

// everythingOf is the state of a domain that a restored guest beside it must not change.
func everythingOf(s *testsite.Site) string {
	s.T.Helper()
	agent, err := os.Stat(filepath.Join("/var/lib/libvirt/qemu", s.Name+".agent"))
	if err != nil {
		s.T.Fatal(err)
	}
	return fmt.Sprintf("%d %s %v\n%s\n%s", s.Pid(), s.State(), agent.ModTime(),
		testdomain.Virsh(s.T, "dumpxml", "--inactive", s.Name), testdomain.Virsh(s.T, "dumpxml", s.Name))
}

// The recipe of docs/restore-by-hand.md, word for word, starts the restored guest as QEMU's user beside
// the original, and the original does not change.
func TestRestoreByHand(t *testing.T) {
	t.Parallel()
	s := talkative(t)
	s.Write("vda", 0, 1<<20, 0x41)
	point := s.BackUp(0, "full").Point
	s.Write("vda", 0, 1<<20, 0x42)
	before := everythingOf(s)
	restored, dir := s.Name+"-restored", filepath.Join(testdomain.TempDir(t), "restored")
	t.Cleanup(func() {
		_, _ = testdomain.TryVirsh(t, "destroy", restored)
		_, _ = testdomain.TryVirsh(t, "undefine", restored)
		_ = os.Remove("/var/log/libvirt/qemu/" + restored + ".log")
	})
	_, commands := recipe(t)
	values := fmt.Sprintf("POINT=%s OLD=%s SOURCE=%s NEW=%s DIR=%s\n", filepath.Join(s.Repo, s.Name, point.ID),
		s.Name, s.Disk("vda").Source, restored, dir)
	testdomain.Tool(t, "sh", "-euxc", values+commands)
	if got := strings.TrimSpace(testdomain.Virsh(t, "domstate", restored)); got != "running" {
		t.Errorf("the restored guest is %s", got)
	}
	if after := everythingOf(s); after != before {
		t.Errorf("the original has changed: before\n%s\nafter\n%s", before, after)
	}
	doc := testdomain.Virsh(t, "dumpxml", restored)
	for _, shared := range []string{s.UUID, "52:54:00:12:34:56", s.Dir + "/serial.log'", s.Name + ".agent", s.Disk("vda").Source} {
		if strings.Contains(doc, shared) {
			t.Errorf("both have %s", shared)
		}
	}
	testdomain.Virsh(t, "destroy", restored)
	testdomain.Same(t, filepath.Join(dir, "vda.qcow2"), "qcow2", s.Points[0].Truth["vda"])
}

// docs/restore-by-hand.md warns of two mistakes: without the change of mode QEMU's user cannot open
// what restore --to makes, and unedited XML replaces the original's definition.
func TestRestoreByHandWithoutCare(t *testing.T) {
	t.Parallel()
	s := talkative(t)
	s.Write("vda", 0, 1<<20, 0x41)
	s.BackUp(0, "full")
	dir := filepath.Join(testdomain.TempDir(t), "restored")
	s.Program.Must(t, nil, "restore", s.Name, "--to", dir)
	text, err := os.ReadFile(filepath.Join(dir, s.Name+".xml"))
	if err != nil {
		t.Fatal(err)
	}
	s.Destroy()
	testdomain.Virsh(t, "undefine", s.Name, "--checkpoints-metadata")
	file := filepath.Join(s.Dir, "restored.xml")
	testsite.WriteFile(t, file, strings.Replace(string(text), s.Disk("vda").Source, filepath.Join(dir, "vda.qcow2"), 1))
	testdomain.Virsh(t, "define", file) // the original is gone: only the path changes
	if _, err := testdomain.TryVirsh(t, "start", s.Name); err == nil || !strings.Contains(err.Error(), "Permission denied") {
		t.Errorf("QEMU's user is not kept out: %v", err)
	}
	testdomain.Tool(t, "chgrp", "libvirt-qemu", dir)
	testdomain.Tool(t, "chmod", "0710", dir)
	s.Start()
	testdomain.Virsh(t, "define", filepath.Join(dir, s.Name+".xml"))
	if doc := testdomain.Virsh(t, "dumpxml", "--inactive", s.Name); strings.Contains(doc, dir) {
		t.Errorf("unedited XML has not replaced the definition:\n%s", doc)
	}
}
