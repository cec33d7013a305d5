//go:build cgo

package nbdcopy

import (
	"context"
	"errors"
	"io"

	"github.com/virtbackup/virtbackup/extent"
)

// Measured is how much of a disk a copy would read, store as zeros and leave out,
// in bytes of whole clusters.
type Measured struct{ Data, Zero, Clean int64 }

// Measure asks for the block status of the disk, as Copy does, and reads nothing;
// what it counts as data may still turn out to be zeros when it is read. cluster
// is the size of the sink's clusters in bytes. moves is called for each extent.
func (e *Export) Measure(ctx context.Context, cluster int, moves func()) (m Measured, err error) {
	for x := e.extents(cluster); ; moves() {
		part, err := x.next(ctx)
		if errors.Is(err, io.EOF) {
			return m, nil
		}
		if err != nil {
			return m, err
		}
		switch part.Status {
		case extent.Data:
			m.Data += part.Length
		case extent.Zero:
			m.Zero += part.Length
		case extent.Clean:
			m.Clean += part.Length
		}
	}
}
