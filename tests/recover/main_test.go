// Package recover tests cleaning up: recover after killed runs, and release.
package recover

import (
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

func TestMain(m *testing.M) { testdomain.Main(m) }
