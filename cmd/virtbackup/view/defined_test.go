package view

import (
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/restore"
	"github.com/virtbackup/virtbackup/restore/define"
)

// A report says what was defined, what is not as it was, and what to do next.
func TestDefined(t *testing.T) {
	again := define.Result{Result: restore.Result{Domain: "vm1", Point: "check1", Dir: "/to"}, Name: "vm1", UUID: "u1",
		Changes: []string{"disk vda: the file /to/vda.qcow2 instead of /x"}, Autostart: true}
	another := again
	another.Name, another.Started, another.Autostart = "vm 2", true, false
	for _, test := range []struct {
		result define.Result
		want   string
	}{
		{again, "domain vm1 is defined, starts with the host, UUID u1\n  disk vda: the file /to/vda.qcow2 instead of /x\n" +
			"next: virsh start vm1\nnext: virtbackup auto vm1 goes on with its backups\n"},
		{another, "domain vm 2 is defined and started, UUID u1\n  disk vda: the file /to/vda.qcow2 instead of /x\n"},
	} {
		var b strings.Builder
		if err := Defined(&b, test.result); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(b.String(), "restored check1 of domain vm1") || !strings.HasSuffix(b.String(), "\n"+test.want) {
			t.Errorf("got\n%s\nwant\n%s", b.String(), test.want)
		}
	}
}
