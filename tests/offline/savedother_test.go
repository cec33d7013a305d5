package offline

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// A domain that is saved goes on with the disks that it had then, which its configuration need not have:
// one that was attached while it ran is not in the point, and that is said.
func TestSavedWithOtherDisks(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 8 * mib}))
	image := filepath.Join(s.Dir, "vdb.qcow2")
	testdomain.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", image, "8M")
	doc := filepath.Join(s.Dir, "vdb.xml")
	testsite.WriteFile(t, doc, fmt.Sprintf("<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='%s'/><target dev='vdb' bus='virtio'/><alias name='ua-vdb'/></disk>", image))
	testdomain.Virsh(t, "attach-device", s.Name, doc, "--live")
	s.Disks = append(s.Disks, testdomain.Disk{Target: "vdb", Size: 8 * mib, Source: image, Format: "qcow2"})
	s.WriteAll(1)
	testsite.WantKinds(t, s.BackUp(0, "full").Point, "vda full, vdb full")
	save(s)
	saved := s.BackUp(3, "inc")
	testsite.WantKinds(t, saved.Point, "vda inc")
	testsite.WantSaid(t, saved.Warnings, "disk vdb ("+image+") is not in the point")
	s.Check()
	xml := testdomain.Virsh(t, "dumpxml", s.Name, "--inactive")
	define(s, strings.Replace(xml, s.Disk("vda").Source, image, 1))
	testsite.WantLine(t, s.Program.Must(t, []int{3}, "copy", s.Name).Stderr, "disk vda is "+image+" in the point")
	define(s, xml)
	testdomain.Virsh(t, "start", s.Name) // with both
	testsite.WantKinds(t, s.BackUp(0, "inc", "--since", "check1").Point, "vda inc, vdb inc")
	s.Check()
}
