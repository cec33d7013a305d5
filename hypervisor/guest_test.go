package hypervisor

import (
	"testing"

	"libvirt.org/go/libvirt"
)

// A daemon that does not know a flag refuses the call.
func TestFlagsOf(t *testing.T) {
	for version, want := range map[uint32]libvirt.DomainBackupBeginFlags{
		9_000_000: 0, 11_009_099: 0, 11_010_000: libvirt.DOMAIN_BACKUP_BEGIN_PRESERVE_SHUTDOWN_DOMAIN, 12_000_000: 2,
	} {
		if got := flagsOf(version); got != want {
			t.Errorf("%d: %d, want %d", version, got, want)
		}
	}
}

func TestShutOffReason(t *testing.T) {
	for reason, want := range map[libvirt.DomainShutoffReason]string{
		libvirt.DOMAIN_SHUTOFF_SHUTDOWN: "the guest shut down", libvirt.DOMAIN_SHUTOFF_CRASHED: "its QEMU crashed", 99: "libvirt does not know why",
	} {
		if got := shutOffReason(reason); got != want {
			t.Errorf("%d: %q, want %q", reason, got, want)
		}
	}
}
