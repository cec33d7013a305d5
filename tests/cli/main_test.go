// Package cli tests the command line: options, messages, exit statuses, signals.
package cli

import (
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

func TestMain(m *testing.M) { testdomain.Main(m) }
