// Package restores tests restores that change something in libvirt: domains that are defined
// again.
package restores

import (
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

func TestMain(m *testing.M) { testdomain.Main(m) }
