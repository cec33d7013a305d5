package view

import (
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/serve"
)

// What people see has a line for each disk; scripts get the addresses alone.
func TestServed(t *testing.T) {
	s := serve.Served{Domain: "vm1", Point: "check2", Time: time.Unix(1e9, 0), Disks: []serve.Disk{
		{Target: "vda", VirtualSize: 3 << 30, URI: "nbd+unix:///vda?socket=/run/x"}, {Target: "vdb", VirtualSize: 512, URI: "nbd+unix:///vdb?socket=/run/x"}}}
	var b strings.Builder
	if err := Served(&b, s, true); err != nil || b.String() != "nbd+unix:///vda?socket=/run/x\nnbd+unix:///vdb?socket=/run/x\n" {
		t.Errorf("%v: %q", err, &b)
	}
	b.Reset()
	if err := Served(&b, s, false); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"serving check2 of domain vm1, taken ", "  vda   3.0 GiB  nbd+unix:///vda?socket=/run/x\n", "  vdb     512 B  nbd+unix:///vdb?socket=/run/x\n", "Ctrl-C"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, &b)
		}
	}
}
