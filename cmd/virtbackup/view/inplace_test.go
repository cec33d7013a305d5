package view

import (
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/restore/inplace"
)

// Whoever has had a domain shut down is told that it is off.
func TestRestoredInPlaceStopped(t *testing.T) {
	for _, stopped := range []bool{true, false} {
		var b strings.Builder
		if err := RestoredInPlace(&b, inplace.Result{Domain: "vm 1", Point: "check1", Stopped: stopped}); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(b.String(), "the domain was shut down, and is off now\nnext: virsh start 'vm 1'\n") != stopped {
			t.Errorf("stopped: %v, got\n%s", stopped, &b)
		}
	}
}
