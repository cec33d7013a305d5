// Package offline tests backups of domains that are shut off: chains that go on while the domain
// runs and while it does not, starts in between, and what is left by runs that are killed.
package offline

import (
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

func TestMain(m *testing.M) { testdomain.Main(m) }
