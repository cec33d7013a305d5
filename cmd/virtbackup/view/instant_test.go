package view

import (
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/restore/instant"
)

// A domain is said to be gone only where it is.
func TestAbandoned(t *testing.T) {
	for _, undefined := range []bool{true, false} {
		a := instant.Abandoned{Domain: "vm1", Point: "check1", Name: "vm1-new", Dir: "/srv/vm1", Files: []string{"/srv/vm1/vda.qcow2"}, Undefined: undefined}
		var before, after strings.Builder
		if err := Abandon(&before, a); err != nil {
			t.Fatal(err)
		}
		if err := Abandoned(&after, a); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(before.String(), "is powered off") != undefined || !strings.Contains(before.String(), a.Files[0]) {
			t.Errorf("undefined %v: %s", undefined, before.String())
		}
		if strings.Contains(after.String(), "domain vm1-new is gone") != undefined {
			t.Errorf("undefined %v: %s", undefined, after.String())
		}
	}
}
