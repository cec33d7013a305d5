// Package guest tests that a backup does not harm the guest: freezing, block jobs, space for
// the scratch files.
package guest

import (
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

func TestMain(m *testing.M) { testdomain.Main(m) }
