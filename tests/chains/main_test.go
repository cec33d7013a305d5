// Package chains tests points as they follow each other: full, incremental, differential and
// compared ones, on every kind of disk, whatever happens to the disks and bitmaps between them.
package chains

import (
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

func TestMain(m *testing.M) { testdomain.Main(m) }
