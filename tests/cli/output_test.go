package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/virtbackup/virtbackup/restore"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testfs"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// A device that a domain has among its disks, running or not, is not restored to; another one
// is.
func TestOutputToADomainsDevice(t *testing.T) {
	t.Parallel()
	s := testsite.Small(t)
	s.BackUp(0, "full")
	const size = 32 << 20
	device := testfs.Loop(t, size, 0xee)
	args := []string{"restore", s.Name, "--disk", "vda", "--output", device}
	refused := testsite.Reject(2, "device "+device+" is in use: it is a disk of domain "+s.Name, "restore --in-place")
	attach := func(how string) {
		testdomain.Virsh(t, "attach-disk", s.Name, device, "vdz", "--subdriver", "raw", "--sourcetype", "block", how)
	}
	detach := func() { testdomain.Virsh(t, "detach-disk", s.Name, "vdz", "--config") }
	attach("--config")
	s.Rejects(refused, args)
	detach()
	overlay := filepath.Join(s.Dir, "overlay.qcow2")
	testdomain.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", device, "-F", "raw", overlay)
	testdomain.Virsh(t, "attach-disk", s.Name, overlay, "vdz", "--subdriver", "qcow2", "--config")
	s.Rejects(refused, args)
	detach()
	attach("--live")
	s.Rejects(refused, args)
	s.Destroy()
	args[len(args)-1] = filepath.Join(s.Dir, "link")
	if err := os.Symlink(device, filepath.Join(s.Dir, "link")); err != nil {
		t.Fatal(err)
	}
	got := decode[restore.OutputResult](t, s.Program.Must(t, nil, append(args, "--json")...))
	if got.Output != device || got.Format != restore.Raw || got.Beyond != size-got.VirtualSize {
		t.Errorf("got %+v", got)
	}
	testdomain.Tool(t, "qemu-img", "compare", "--image-opts", fmt.Sprintf("driver=raw,size=%d,file.driver=host_device,file.filename=%s", got.VirtualSize, device),
		"driver=raw,file.driver=file,file.filename="+s.Points[0].Truth["vda"])
}

// A target that is mounted read-only is refused with a hint; nothing is left.
func TestRestoreToAReadOnlyTarget(t *testing.T) {
	t.Parallel()
	s := testsite.Small(t)
	s.BackUp(0, "full")
	at := testdomain.TempDir(t)
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "ro", "none", at).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { testdomain.Tool(t, "umount", at) })
	want := testsite.Reject(1, "read-only file system", "mounted read-only")
	s.Rejects(want, []string{"restore", s.Name, "--to", at}, at)
	s.Rejects(want, []string{"restore", s.Name, "--to", filepath.Join(at, "new", "dir")}, at)
	s.Rejects(want, []string{"restore", s.Name, "--disk", "vda", "--output", filepath.Join(at, "vda.img")}, at)
}

// A pipe whose reader ends is an error, unlike for what prints lists.
func TestOutputToAPipeThatEnds(t *testing.T) {
	t.Parallel()
	s := testsite.Small(t)
	s.BackUp(0, "full")
	program := s.Program
	program.Binary = "/bin/bash"
	r := program.Run(t, "-c", `"$0" "$@" | head -c 100000 >/dev/null; exit ${PIPESTATUS[0]}`, testdomain.Binary(t), "restore", s.Name, "--disk", "vda", "--output", "-")
	s.WantRejected(r, testsite.Reject(1, "to standard output: write: ", "did not get the whole disk"))
	if r.Code != 1 {
		t.Errorf("exit %d", r.Code)
	}
}
