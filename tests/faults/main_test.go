// Package faults breaks runs, and what is around them, at every point: signals, I/O errors,
// panics, power cuts, QEMU and libvirtd that die.
package faults

import (
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

func TestMain(m *testing.M) { testdomain.Main(m) }
