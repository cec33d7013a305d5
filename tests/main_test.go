// Package tests holds the whole-program tests: the virtbackup binary on real
// libvirt, QEMU and guests.
package tests

import (
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

func TestMain(m *testing.M) { testdomain.Main(m) }
