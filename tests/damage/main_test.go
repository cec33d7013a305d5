// Package damage tests repositories that are damaged, forged, or read wrongly.
package damage

import (
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

func TestMain(m *testing.M) { testdomain.Main(m) }
