// Package instant tests domains that run from a point while their data comes home, and what kills them.
package instant

import (
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

func TestMain(m *testing.M) { testdomain.Main(m) }
