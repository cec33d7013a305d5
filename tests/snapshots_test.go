package tests

import (
	"os"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// revert reverts to an internal snapshot, as docs/troubleshooting.md has it.
func (s *site) revert(name string) error {
	s.t.Helper()
	_, err := testdomain.TryVirsh(s.t, "snapshot-revert", s.Name, name)
	return err
}

// wantRevertRefused: QEMU loads no snapshot of an image with bitmaps (block/snapshot.c,
// bdrv_snapshot_goto).
func (s *site) wantRevertRefused(name string) {
	s.t.Helper()
	err := s.revert(name)
	// libvirt passes on what QEMU said only if it comes to read it in time.
	log, _ := os.ReadFile("/var/log/libvirt/qemu/" + s.Name + ".log")
	if err == nil || !strings.Contains(err.Error()+string(log), "Device has active dirty bitmaps") {
		s.t.Fatalf("a revert with checkpoints: %v", err)
	}
	if got := s.State(); got != "shut" {
		s.t.Errorf("the domain is %s after the revert has failed, want it off", got)
	}
}

// With checkpoints there, a revert to an internal snapshot fails and leaves the guest
// off, with its disks as they were. The next run is right, and so is the one after a
// revert once the checkpoints are released.
func TestSnapshotRevert(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}, testdomain.Disk{Target: "vdb", Size: 8<<20 + 512}))
	s.writeAll(1)
	testdomain.Virsh(t, "snapshot-create-as", s.Name, "before")
	s.writeAll(2)
	s.backUp(0, "full")
	testdomain.Virsh(t, "snapshot-create-as", s.Name, "since") // allowed, and harmless
	s.writeAll(3)
	wantKinds(t, s.backUp(0, "inc").Point, "vda inc, vdb inc")

	for round, name := range []string{"before", "since"} {
		s.writeAll(int64(4 + round))
		s.wantRevertRefused(name)
		s.Start()
		lost := s.backUp(3, "inc")
		wantKinds(t, lost.Point, "vda rescan, vdb rescan")
		wantSaid(t, lost.Warnings, "is missing or broken")
	}
	s.writeAll(6)
	wantKinds(t, s.backUp(0, "inc").Point, "vda inc, vdb inc")

	s.program.Must(t, nil, "release", s.Name)
	if err := s.revert("before"); err != nil {
		t.Fatalf("a revert without checkpoints: %v", err)
	}
	testdomain.QemuIO(t, s.truths()["vda"], "raw", "read -P 0x81 3M 1000") // what writeAll(1) wrote
	reverted := s.backUp(3, "inc")
	wantKinds(t, reverted.Point, "vda rescan, vdb rescan")
	s.writeAll(7)
	wantKinds(t, s.backUp(0, "inc").Point, "vda inc, vdb inc")
	s.check()
}

// Released while the domain is off, checkpoints leave their bitmaps, and the revert
// fails as before; a snapshot of a domain that is off is refused by qemu-img, which
// leaves the bitmaps valid.
func TestSnapshotRevertOfADomainThatIsOff(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}))
	s.Destroy()
	testdomain.Virsh(t, "snapshot-create-as", s.Name, "off")
	s.Start()
	s.writeAll(1)
	s.backUp(0, "full")
	s.writeAll(2)
	s.wantRevertRefused("off")
	s.Start()
	wantKinds(t, s.backUp(0, "inc").Point, "vda inc")
	s.writeAll(3)
	s.Destroy()
	s.program.Must(t, nil, "release", s.Name)
	s.wantRevertRefused("off")
	s.Start()
	s.program.Must(t, nil, "recover", s.Name) // defines the checkpoints again
	s.program.Must(t, nil, "release", s.Name)
	s.Destroy()
	if err := s.revert("off"); err != nil {
		t.Fatalf("a revert without checkpoints: %v", err)
	}
	s.Start()
	wantKinds(t, s.backUp(3, "inc").Point, "vda rescan")
	s.check()
}
