// Package docs tests what the documents promise: recipes, names of tests, make install.
package docs

import (
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

func TestMain(m *testing.M) { testdomain.Main(m) }
