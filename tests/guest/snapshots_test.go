package guest

import (
	"os"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// revert reverts to an internal snapshot, as docs/troubleshooting.md describes.
func revert(s *testsite.Site, name string) error {
	s.T.Helper()
	_, err := testdomain.TryVirsh(s.T, "snapshot-revert", s.Name, name)
	return err
}

// wantRevertRefused: QEMU loads no snapshot of an image with bitmaps (block/snapshot.c,
// bdrv_snapshot_goto).
func wantRevertRefused(s *testsite.Site, name string) {
	s.T.Helper()
	err := revert(s, name)
	// libvirt 9.0 passes on what QEMU said only if it comes to read it in time; 11.3 never passes on what qemu-img said,
	// which it calls for a snapshot of a domain that was off.
	log, _ := os.ReadFile("/var/log/libvirt/qemu/" + s.Name + ".log")
	if err == nil || !strings.Contains(err.Error()+string(log), "Device has active dirty bitmaps") &&
		!strings.Contains(err.Error(), "An error occurred, but the cause is unknown") {
		s.T.Fatalf("a revert with checkpoints: %v", err)
	}
	if got := s.State(); got != "shut" {
		s.T.Errorf("the domain is %s after the revert has failed, want it off", got)
	}
}

// While there are checkpoints, a revert to an internal snapshot fails and leaves the guest
// off, with its disks unchanged. The next run is right, and so is the run after a revert once
// the checkpoints are released.
func TestSnapshotRevert(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}, testdomain.Disk{Target: "vdb", Size: 8<<20 + 512}))
	s.WriteAll(1)
	testdomain.Virsh(t, "snapshot-create-as", s.Name, "before")
	s.WriteAll(2)
	s.BackUp(0, "full")
	testdomain.Virsh(t, "snapshot-create-as", s.Name, "since") // allowed, and harmless
	s.WriteAll(3)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc")

	for round, name := range []string{"before", "since"} {
		s.WriteAll(int64(4 + round))
		wantRevertRefused(s, name)
		s.Start()
		wantRightAfterFailedRevert(s)
	}
	s.WriteAll(6)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc")

	s.Program.Must(t, nil, "release", s.Name)
	if err := revert(s, "before"); err != nil {
		t.Fatalf("a revert without checkpoints: %v", err)
	}
	testdomain.QemuIO(t, s.Truths()["vda"], "raw", "read -P 0x81 3M 1000") // what writeAll(1) wrote
	reverted := s.BackUp(3, "inc")
	testsite.WantKinds(t, reverted.Point, "vda rescan, vdb rescan")
	s.WriteAll(7)
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc, vdb inc")
	s.Check()
}

// wantRightAfterFailedRevert: libvirt 9.0 has started a QEMU that has opened the images and could not go on, after which
// their bitmaps are not valid. 11.3 ends it in order, and the bitmaps go on.
func wantRightAfterFailedRevert(s *testsite.Site) {
	s.T.Helper()
	truth := s.Truths()
	next := s.Add(s.Program.Must(s.T, []int{0, 3}, "--json", "inc", s.Name), truth)
	if len(next.Warnings) == 0 {
		testsite.WantKinds(s.T, next.Point, "vda inc, vdb inc")
		return
	}
	testsite.WantKinds(s.T, next.Point, "vda rescan, vdb rescan")
	testsite.WantSaid(s.T, next.Warnings, "is missing or broken")
}

// If checkpoints are released while the domain is off, their bitmaps stay and the revert fails
// as before; qemu-img refuses a snapshot of a domain that is off, and leaves the bitmaps
// valid.
func TestSnapshotRevertOfADomainThatIsOff(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}))
	s.Destroy()
	testdomain.Virsh(t, "snapshot-create-as", s.Name, "off")
	s.Start()
	s.WriteAll(1)
	s.BackUp(0, "full")
	s.WriteAll(2)
	wantRevertRefused(s, "off")
	s.Start()
	testsite.WantKinds(t, s.BackUp(0, "inc").Point, "vda inc")
	s.WriteAll(3)
	s.Destroy()
	s.Program.Must(t, nil, "release", s.Name)
	wantRevertRefused(s, "off")
	s.Start()
	s.Program.Must(t, nil, "recover", s.Name) // defines the checkpoints again
	s.Program.Must(t, nil, "release", s.Name)
	s.Destroy()
	if err := revert(s, "off"); err != nil {
		t.Fatalf("a revert without checkpoints: %v", err)
	}
	s.Start()
	testsite.WantKinds(t, s.BackUp(3, "inc").Point, "vda rescan")
	s.Check()
}
