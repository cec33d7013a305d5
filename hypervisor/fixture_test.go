package hypervisor

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/xml"
)

// guest is a throwaway domain without an operating system: paused, so that nothing but the test writes to its disks. vda and
// vdb are qcow2, vdc is raw; it has the guest agent's channel, with no agent at the other end.
type guest struct {
	*Domain
	dir string // writable for QEMU: images, sockets, scratch files
}

const domainXML = `<domain type='qemu'>
  <name>%[1]s</name>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='%[2]s/vda.qcow2'/><target dev='vda' bus='virtio'/></disk>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='%[2]s/vdb.qcow2'/><target dev='vdb' bus='virtio'/></disk>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='%[2]s/vdc.raw'/><target dev='vdc' bus='virtio'/></disk>
    <disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
  </devices>
</domain>`

// connect opens libvirt. Without it tests fail, but with -short, which make unit has, they are
// skipped.
func connect(t *testing.T) *Conn {
	t.Helper()
	if testing.Short() {
		t.Skip("needs libvirtd")
	}
	conn, err := Connect("qemu:///system")
	if err != nil {
		t.Fatalf("these tests need a libvirtd (virtlogd -d; libvirtd -d): %v", err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return conn
}

// newGuest defines and starts a guest, and removes all of it afterwards. Tests with a guest of their own run in parallel: one
// of them waits for 30 s.
func newGuest(t *testing.T) guest {
	t.Helper()
	t.Parallel()
	conn := connect(t)
	dir, err := os.MkdirTemp("/var/tmp", "vbtest-hyp-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	giveToQEMU(t, dir)
	for _, image := range []string{"vda.qcow2", "vdb.qcow2", "vdc.raw"} {
		run(t, "qemu-img", "create", "-q", "-f", strings.TrimPrefix(filepath.Ext(image), "."), filepath.Join(dir, image), "64M")
	}
	name := filepath.Base(dir)
	definition := filepath.Join(dir, "domain.xml")
	if err := os.WriteFile(definition, fmt.Appendf(nil, domainXML, name, dir), 0o600); err != nil {
		t.Fatal(err)
	}
	virsh(t, "define", definition)
	t.Cleanup(func() {
		_ = exec.Command("virsh", "-q", "-c", "qemu:///system", "destroy", name).Run() // it may be off
		virsh(t, "undefine", name, "--checkpoints-metadata")
	})
	virsh(t, "start", name, "--paused")
	domain, err := conn.Domain(name)
	if err != nil {
		t.Fatal(err)
	}
	return guest{domain, dir}
}

// giveToQEMU makes QEMU's user the owner of path.
func giveToQEMU(t *testing.T, path string) {
	t.Helper()
	for _, name := range []string{"libvirt-qemu", "qemu"} { // Debian, Fedora
		account, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, _ := strconv.Atoi(account.Uid)
		if err := os.Chown(path, uid, -1); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatal("neither a user libvirt-qemu nor a user qemu")
}

func virsh(t *testing.T, args ...string) string {
	t.Helper()
	return run(t, "virsh", append([]string{"-q", "-c", "qemu:///system"}, args...)...)
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// write writes to a disk through QEMU's block layer, where dirty bitmaps see it. QEMU prints the result to its own log, so
// a test must look at the bitmap.
func (g guest) write(t *testing.T, disk int, command string) {
	t.Helper()
	out := virsh(t, "qemu-monitor-command", g.Name(), "--hmp", fmt.Sprintf(
		`qemu-io -d /machine/peripheral/virtio-disk%d/virtio-backend "%s"`, disk, command))
	if strings.TrimSpace(out) != "" {
		t.Fatalf("qemu-io %s: %s", command, out)
	}
}

// job returns the job for those disks, "vda" in full and "vda:check1" incremental; the others are left out.
func (g guest) job(disks ...string) xml.Backup {
	job := xml.Backup{Socket: filepath.Join(g.dir, "nbd.sock")}
	chosen := make(map[string]bool)
	for _, disk := range disks {
		target, since, _ := strings.Cut(disk, ":")
		chosen[target] = true
		job.Disks = append(job.Disks, xml.BackupDisk{
			Target: target, Incremental: since, Scratch: filepath.Join(g.dir, target+".scratch"),
		})
	}
	for _, target := range []string{"vda", "vdb", "vdc"} {
		if !chosen[target] {
			job.Leave = append(job.Leave, target)
		}
	}
	return job
}

// checkpoint returns a checkpoint of those disks.
func checkpoint(name string, disks ...string) xml.Checkpoint {
	c := xml.Checkpoint{Name: name}
	for _, target := range []string{"vda", "vdb", "vdc"} {
		disk := xml.CheckpointDisk{Target: target}
		for _, chosen := range disks {
			if chosen == target {
				disk.Bitmap = name
			}
		}
		c.Disks = append(c.Disks, disk)
	}
	return c
}

// makeScratch makes the scratch file of a disk, if there is not one and its directory is there.
func (g guest) makeScratch(t *testing.T, disk xml.BackupDisk) {
	t.Helper()
	size, _, err := g.Allocation(disk.Target)
	if err != nil {
		return // BackupBegin says so
	}
	if _, err := os.Stat(filepath.Dir(disk.Scratch)); err != nil {
		return
	}
	if _, err := os.Stat(disk.Scratch); err == nil {
		return
	}
	if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", disk.Scratch, strconv.FormatInt(size, 10)).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// begin starts a job, with a checkpoint if one is given, and returns BackupBegin's error.
func (g guest) begin(t *testing.T, job xml.Backup, checkpoints ...xml.Checkpoint) error {
	t.Helper()
	backupXML, err := job.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for _, disk := range job.Disks {
		g.makeScratch(t, disk)
	}
	checkpointXML := ""
	for _, c := range checkpoints {
		if checkpointXML, err = c.Marshal(); err != nil {
			t.Fatal(err)
		}
	}
	return g.BackupBegin(backupXML, checkpointXML)
}

// end ends the job. It takes 30 ms; the limit is for machines with a busy disk.
func (g guest) end(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := g.EndBackup(ctx); err != nil {
		t.Fatal(err)
	}
}
