package backup

import (
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/zstd"
	"github.com/virtbackup/virtbackup/qcow2"
)

// Tuning is how disks are copied. The zero value is right for most users.
type Tuning struct {
	// Zstd is the compression level of images, 1 to zstd.MaxLevel; 0 means no compression.
	Zstd int
	// Connections per disk; 0 lets nbdcopy choose.
	Connections int
	// Direct says whether images are written past the page cache.
	Direct directio.Mode
}

func (t Tuning) validate() error {
	if t.Connections < 0 || t.Connections > maxConnections {
		return fail.Errorf(fail.Usage, "", "%d connections per disk: at most %d, and 0 lets virtbackup choose", t.Connections, maxConnections)
	}
	if t.Zstd == 0 {
		return nil
	}
	if err := zstd.ValidLevel(t.Zstd); err != nil {
		return fail.Errorf(fail.Usage, "--compress zstd, --compress zstd:6 or --compress none", "%v", err)
	}
	return nil
}

// compressor is nil if images are not compressed.
func (t Tuning) compressor() func() qcow2.Compressor {
	if t.Zstd == 0 {
		return nil
	}
	return func() qcow2.Compressor { return zstd.New(t.Zstd) }
}

// maxConnections per disk: QEMU's NBD server accepts 100 in all, and limit.DisksAtOnce
// disks are copied at once, each with two more connections for block status.
const maxConnections = 16
