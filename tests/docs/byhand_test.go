package docs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testfs"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// recipe is the block of commands after a line of docs/restore-by-hand.md, without the values
// that the reader fills in.
func recipe(t *testing.T, after string) (commands string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(testdomain.Root(t), "docs/restore-by-hand.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "\n"+after+"\n")
	if !ok {
		t.Fatalf("docs/restore-by-hand.md has no %q", after)
	}
	values, seenValue := true, false
	for line := range strings.Lines(rest) {
		code, indented := strings.CutPrefix(line, "    ")
		switch {
		case indented && !values:
			commands += code
		case commands != "":
			return commands
		case strings.TrimSpace(line) == "" && values && seenValue:
			values = false
		case indented:
			seenValue = true
		}
	}
	return commands
}

// follow runs a recipe with values: names and values in turn.
func follow(t *testing.T, after string, values ...string) string {
	t.Helper()
	script := ""
	for i := 0; i < len(values); i += 2 {
		script += values[i] + "='" + values[i+1] + "'\n"
	}
	return testdomain.Tool(t, "sh", "-euxc", script+recipe(t, after))
}

func pointDir(s *testsite.Site, id string) string { return filepath.Join(s.Repo, s.Name, id) }

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
	follow(t, "## A second guest beside the original", "POINT", pointDir(s, point.ID), "OLD", s.Name, "DISK", s.Disk("vda").Source, "NEW", restored, "DIR", dir)
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

// The guest and its disk are lost: the recipe defines it again, and the next backup goes on in
// the same directory.
func TestRestoreByHandWhenTheGuestIsGone(t *testing.T) {
	t.Parallel()
	s := talkative(t)
	s.Write("vda", 0, 1<<20, 0x41)
	point := s.BackUp(0, "full").Point
	disk, dir := s.Disk("vda").Source, filepath.Join(testdomain.TempDir(t), "restored")
	s.Destroy()
	testdomain.Virsh(t, "undefine", s.Name, "--checkpoints-metadata")
	if err := os.Remove(disk); err != nil {
		t.Fatal(err)
	}
	if said := follow(t, "## Which point", "REPO", s.Repo, "DOMAIN", s.Name, "POINT", pointDir(s, point.ID)); !strings.Contains(said, "full") {
		t.Errorf("which point: %s", said)
	}
	follow(t, "## The guest is gone", "POINT", pointDir(s, point.ID), "DISK", disk, "DOMAIN", s.Name, "DIR", dir)
	follow(t, "Then start it:", "DOMAIN", s.Name)
	if got := strings.TrimSpace(testdomain.Virsh(t, "domstate", s.Name)); got != "running" {
		t.Errorf("the restored guest is %s", got)
	}
	s.Program.Must(t, []int{3}, "inc", s.Name) // compared: the new image has no bitmap
	testdomain.Virsh(t, "destroy", s.Name)
	testdomain.Same(t, filepath.Join(dir, "vda.qcow2"), "qcow2", s.Points[0].Truth["vda"])
}

// The disk of a guest that is off goes back in place, and the next inc is small and right.
func TestRestoreByHandInPlace(t *testing.T) {
	t.Parallel()
	s := talkative(t)
	s.Write("vda", 0, 1<<20, 0x41)
	point := s.BackUp(0, "full").Point
	s.Write("vda", 0, 2<<20, 0x42)
	s.Destroy() // by SIGTERM, so that QEMU stores its bitmaps
	disk, aside := s.Disk("vda").Source, filepath.Join(testdomain.TempDir(t), "before.qcow2")
	follow(t, "## In place", "POINT", pointDir(s, point.ID), "DISK", disk, "DOMAIN", s.Name, "ASIDE", aside)
	testdomain.QemuIO(t, aside, "qcow2", "read -P 0x42 0 2M")
	now := filepath.Join(testdomain.TempDir(t), "now.raw")
	s.Truth("vda", now)
	testdomain.Same(t, now, "raw", s.Points[0].Truth["vda"])
	s.Write("vda", 8<<20, 64<<10, 0x43)
	if d := s.BackUp(0, "inc").Point.Disks[0]; d.Reason != "" {
		t.Errorf("the inc after it: %s", d.Reason)
	}
	s.CheckFlattened(s.Points[1])
}

// loop is a block device of a size that truncate(1) takes, full of old data.
func loop(t *testing.T, size string) string {
	t.Helper()
	file := filepath.Join(testdomain.TempDir(t), "device")
	testdomain.Tool(t, "truncate", "-s", size, file)
	device := testfs.Attach(t, file)
	testdomain.QemuIO(t, device, "raw", "write -P 0x77 0 "+size)
	return device
}

// One disk goes to a block device, and through a pipe.
func TestRestoreByHandOfOneDisk(t *testing.T) {
	t.Parallel()
	s := talkative(t)
	s.Write("vda", 0, 1<<20, 0x41)
	point := s.BackUp(0, "full").Point
	device, output := loop(t, "16M"), filepath.Join(testdomain.TempDir(t), "vda.raw.gz")
	follow(t, "To a block device (at least as large as the disk; `-n` does not try to create it):", "POINT", pointDir(s, point.ID), "DEVICE", device)
	testdomain.Same(t, device, "raw", s.Points[0].Truth["vda"])
	follow(t, "To a pipe, for another host:", "POINT", pointDir(s, point.ID), "OUTPUT", output)
	testdomain.Tool(t, "gunzip", output)
	testdomain.Same(t, strings.TrimSuffix(output, ".gz"), "raw", s.Points[0].Truth["vda"])
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
