// Package faults breaks runs at every point, and what they depend on: signals, I/O errors,
// panics, power cuts, crashes of QEMU and libvirtd.
package faults

import (
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

func TestMain(m *testing.M) { testdomain.Main(m) }
