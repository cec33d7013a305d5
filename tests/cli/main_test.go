// Package cli tests what a person types and sees: options, words, exit statuses, signals.
package cli

import (
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

func TestMain(m *testing.M) { testdomain.Main(m) }
