package remains

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"golang.org/x/sys/unix"
)

// logTail is how much of the end of QEMU's log is read, in bytes: libvirt writes why it has ended last.
const logTail = 4 << 10

// QEMUFailed tells whether libvirt has noted that the domain's QEMU crashed or was killed, other than by libvirt itself. libvirt
// forgets a transient domain at its end: the log, which goes with the drill, is where it says why. false where it does not.
func (n Note) QEMUFailed() (bool, error) { return failedBy(filepath.Join(logDir, n.Name()+".log")) }

func failedBy(log string) (bool, error) {
	f, err := os.OpenFile(log, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) { // of a user's libvirt it is elsewhere
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	end, err := io.ReadAll(io.NewSectionReader(f, max(0, info.Size()-logTail), logTail))
	return err == nil && isFailure(end), err
}

// shutdown is the line that libvirt writes when a domain has ended, which is not translated (qemuProcessStop), with the name of a
// virDomainShutoffReason.
var shutdown = regexp.MustCompile(`(?m)^[-0-9 :.+]{20,40}: shutting down, reason=(.+)$`)

// isFailure tells whether the last reason of a log is QEMU's failure, or libvirtd's.
func isFailure(log []byte) bool {
	all := shutdown.FindAllSubmatch(log, -1)
	return len(all) > 0 && slices.Contains([]string{"crashed", "failed", "daemon"}, string(all[len(all)-1][1]))
}
