// Package drill tests that points are booted, that what cannot boot is not said to have booted, and
// that nothing is left of it.
package drill

import (
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

func TestMain(m *testing.M) { testdomain.Main(m) }
