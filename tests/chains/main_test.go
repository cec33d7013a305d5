// Package chains tests sequences of points: full, incremental, differential, and compared ones, on
// every kind of disk, with changes to the disks and bitmaps between the points.
package chains

import (
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

func TestMain(m *testing.M) { testdomain.Main(m) }
