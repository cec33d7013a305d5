package chains

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/restore/inplace"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// goBack puts the disks back to a point now and then, in place, which may be killed and is begun
// again then. The domain is off afterwards.
func (o *oracle) goBack() {
	o.T.Helper()
	if o.IntN(4) > 0 {
		return
	}
	if o.State() != "shut" {
		o.Destroy()
	}
	p := o.Points[o.IntN(len(o.Points))]
	args := []string{"--json", "restore", o.Name + "@" + p.ID, "--in-place", "--yes", "--force"}
	if o.IntN(2) == 0 {
		args = append(args, "--no-save")
	}
	o.T.Logf("in place to %s", p.ID)
	program, before := o.Program, o.Truths()
	if o.IntN(2) == 0 {
		program.Binary = testdomain.FaultyBinary(o.T)
		program.Env = append(slices.Clone(program.Env), fmt.Sprintf("VIRTBACKUP_FAULT=in place: write#%d:kill", 1+o.IntN(30)))
	}
	r := program.Run(o.T, args...)
	if r.Code == 137 {
		r = o.Program.Run(o.T, args...)
	}
	switch {
	case r.Code == 2 && strings.Contains(r.Stderr, "is not ours, and would not show what the resize changes"):
		return // a bitmap of the other repository
	case r.Code != 0 && r.Code != 3:
		o.T.Fatalf("restored in place: exit %d", r.Code)
	}
	var result inplace.Result
	if err := json.Unmarshal([]byte(r.Stdout), &result); err != nil {
		o.T.Fatal(err)
	}
	for _, d := range o.Disks {
		testdomain.Same(o.T, d.Source, "qcow2", p.Truth[d.Target])
		testdomain.CheckImage(o.T, d.Source)
		o.size[d.Target] = testsite.DiskOf(o.T, p.Manifest, d.Target).VirtualSize
	}
	if result.Saved == "" {
		return
	}
	var m manifest.Manifest
	if err := json.Unmarshal([]byte(o.Program.Must(o.T, nil, "--json", "show", o.Name+"@"+result.Saved).Stdout), &m); err != nil {
		o.T.Fatal(err)
	}
	o.Points = append(o.Points, testsite.Point{Manifest: m, Truth: before})
}
