// Package nights lets hundreds of nights go by: one backup or two each, and a prune, of a
// domain in memory and with a clock of its own, on file systems of its own, with kills in
// between. The truth of every point is kept beside the repository.
//
// Backups are made by a program of this package, which has a fake of libvirt; prune, verify
// and restore are the real program.
package nights

import (
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

func TestMain(m *testing.M) { testdomain.Main(m) }
