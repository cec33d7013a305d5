package hypervisor

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/virtbackup/virtbackup/xml"
)

// TestOldImages: QEMU tells which of its images cannot have bitmaps, by the node names that follow from the domain's XML, and
// a bitmap on one of them fails with ErrBitmap.
func TestOldImages(t *testing.T) {
	g := newGuest(t)
	if nodes, err := g.OldImages(); len(nodes) > 0 || err != nil {
		t.Errorf("OldImages = %q, %v", nodes, err)
	}
	virsh(t, "destroy", g.Name())
	_, err := g.OldImages()
	wantErr(t, "ask a domain that is off", err, ErrNotRunning, "not running")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", filepath.Join(g.dir, "vdb.qcow2"), "4M")
	virsh(t, "start", "--paused", g.Name())
	doc, err := g.XML()
	must(t, err)
	domain, err := xml.ParseDomain(doc)
	must(t, err)
	disk, _ := domain.Disk("vdb")
	if nodes, err := g.OldImages(); !slices.Equal(nodes, []string{disk.FormatNode()}) || err != nil {
		t.Errorf("OldImages = %q, %v, want %q", nodes, err, disk.FormatNode())
	}
	wantErr(t, "begin", g.begin(t, g.job("vda", "vdb"), checkpoint("check1", "vda", "vdb")), ErrBitmap, "qcow2 v2")
	for target, kind := range map[string]error{"vda": nil, "vdb": ErrBitmap} {
		doc, err := checkpoint("try-"+target, target).Marshal()
		must(t, err)
		if err := g.CreateCheckpoint(doc); kind == nil && err != nil {
			t.Error(err)
		} else if kind != nil {
			wantErr(t, "create", err, kind, "qcow2 v2")
		}
	}
	if _, err := oldImages("no JSON"); err == nil {
		t.Error("no error of a reply that is no JSON")
	}
}
