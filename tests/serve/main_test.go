// Package serve tests points that are served over NBD, with the clients that people use: nbdcopy,
// nbdinfo, qemu-img, qemu-io and nbdkit's nbd plugin.
package serve

import (
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

func TestMain(m *testing.M) { testdomain.Main(m) }
