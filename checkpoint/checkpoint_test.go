package checkpoint

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/xml"
)

const repo = "0b1c5b1e-1111-4222-8333-444455556666"

// doc is a checkpoint as libvirt prints it: vda with a healthy bitmap, vdb with
// a broken one (no size), vdc without.
func doc(name, description string) string {
	return `<domaincheckpoint><name>` + name + `</name><description>` + description + `</description>
  <creationTime>1700000000</creationTime>
  <disks>
    <disk name='vda' checkpoint='bitmap' bitmap='` + name + `' size='65536'/>
    <disk name='vdb' checkpoint='bitmap' bitmap='` + name + `'/>
    <disk name='vdc' checkpoint='no'/>
  </disks></domaincheckpoint>`
}

func TestSurvey(t *testing.T) {
	docs := []string{
		doc("check1", Description(repo, "check1")),
		doc("check2", Description(repo, "check2")),
		doc("check3", Description("another-repository", "check3")),
		doc("check4", ""),
		doc("check5", Description(repo, "check1")), // redefined under another name
		doc("theirs", "virtbackup"),
	}
	all, err := Survey(docs, repo, func(point string) bool { return point != "check2" })
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range all {
		got = append(got, c.Name+" "+c.Owner())
	}
	want := "check1 ours, check2 left over, check3 foreign, check4 foreign, check5 foreign, theirs foreign"
	if text := strings.Join(got, ", "); text != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
	if _, err := Survey([]string{"<nonsense"}, repo, nil); err == nil {
		t.Error("a document that is no XML: no error")
	}
}

func TestBitmaps(t *testing.T) {
	all, err := Survey([]string{doc("check1", "")}, repo, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := all[0]
	if got := c.Broken(); !slices.Equal(got, []string{"vdb"}) {
		t.Errorf("broken: %q", got)
	}
	for _, tt := range []struct {
		target         string
		bitmap, usable bool
		size           int64
	}{{"vda", true, true, 65536}, {"vdb", true, false, -1}, {"vdc", false, false, -1}, {"vdx", false, false, -1}} {
		if c.Bitmap(tt.target) != tt.bitmap || c.Usable(tt.target) != tt.usable || c.Size(tt.target) != tt.size {
			t.Errorf("%s: bitmap %v, usable %v, size %d", tt.target, c.Bitmap(tt.target), c.Usable(tt.target), c.Size(tt.target))
		}
	}
}

func TestDead(t *testing.T) {
	disk := func(target, bitmap string, size int64) xml.CheckpointDisk {
		return xml.CheckpointDisk{Target: target, Bitmap: bitmap, Size: size}
	}
	good, empty, broken, none := disk("vda", "check1", 4096), disk("vdb", "check1", 0), disk("vdc", "check1", -1), disk("vdd", "", -1)
	for _, tt := range []struct {
		name          string
		disks         []xml.CheckpointDisk
		dead, healthy bool
	}{
		{"no disk", nil, false, false},
		{"none covered", []xml.CheckpointDisk{none}, false, false},
		{"all good", []xml.CheckpointDisk{good, empty, none}, false, true},
		{"nothing changed since", []xml.CheckpointDisk{empty}, false, true},
		{"one broken", []xml.CheckpointDisk{good, broken}, false, false},
		{"one broken, one empty", []xml.CheckpointDisk{broken, empty}, false, false},
		{"all broken", []xml.CheckpointDisk{broken, none, broken}, true, false},
	} {
		c := Checkpoint{Checkpoint: xml.Checkpoint{Name: "check1", Disks: tt.disks}}
		if c.Dead() != tt.dead || c.Healthy() != tt.healthy {
			t.Errorf("%s: dead %v, healthy %v", tt.name, c.Dead(), c.Healthy())
		}
	}
}

func TestRefuse(t *testing.T) {
	named := xml.Checkpoint{Name: "check1"}
	tests := []struct {
		name string
		c    Checkpoint
		want string // "" not refused
	}{
		{"foreign", Checkpoint{Checkpoint: named}, "not made by virtbackup for this repository"},
		{"needed", Checkpoint{Checkpoint: named, Ours: true, Sealed: true}, "point check1 needs it"},
		{"left over", Checkpoint{Checkpoint: named, Ours: true}, ""},
	}
	for _, tt := range tests {
		err := Refuse(tt.c)
		var refused *RefusedError
		if tt.want == "" {
			if err != nil {
				t.Errorf("%s: got %v", tt.name, err)
			}
			continue
		}
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), tt.want) || !strings.Contains(refused.Hint(), "--force") || refused.Loss == "" {
			t.Errorf("%s: got %v", tt.name, err)
		}
	}
}

// deleter is a domain with one checkpoint of two disks, whose bitmaps may be
// missing in the images. It notes what is deleted and defined.
type deleter struct {
	calls   []string
	missing []string // disks without the bitmap
	off     bool
	locked  error // why not even metadata can be deleted

	disks []string // of the checkpoint as it is listed now
}

func (d *deleter) CheckpointXML(string) (string, error) { return twoDisks, nil }

func (d *deleter) DeleteCheckpoint(_ string, metadataOnly bool) error {
	if metadataOnly {
		d.calls = append(d.calls, "metadata")
		return d.locked
	}
	d.calls = append(d.calls, "delete "+strings.Join(d.disks, "+"))
	if d.off {
		return hypervisor.ErrNotRunning
	}
	for _, target := range d.disks {
		if slices.Contains(d.missing, target) {
			return errNoBitmap
		}
	}
	return nil
}

func (d *deleter) RedefineCheckpoint(doc string, validate bool) error {
	c, err := xml.ParseCheckpoint(doc)
	if err != nil || validate || c.Name != "check1" || c.Created.IsZero() || c.Parent != "" {
		return fmt.Errorf("redefine %v: %w", c, err)
	}
	d.disks = nil
	for _, disk := range c.Disks {
		d.disks = append(d.disks, disk.Target)
	}
	d.calls = append(d.calls, "define "+strings.Join(d.disks, "+"))
	return nil
}

var errNoBitmap = errors.New("bitmap not found")

const twoDisks = `<domaincheckpoint><name>check1</name><parent><name>check0</name></parent><creationTime>1700000000</creationTime>
<disks><disk name='vda' checkpoint='bitmap'/><disk name='vdb' checkpoint='bitmap'/><disk name='vdc' checkpoint='no'/></disks></domaincheckpoint>`

func TestDelete(t *testing.T) {
	locked := errors.New("locked")
	tests := []struct {
		name   string
		d      deleter
		calls  string
		stayed bool
		err    error
	}{
		{"whole", deleter{}, "delete vda+vdb", false, nil},
		{"one bitmap lost", deleter{missing: []string{"vda"}},
			"delete vda+vdb, metadata, define vda, delete vda, metadata, define vdb, delete vdb", true, nil},
		{"shut off", deleter{off: true}, "delete vda+vdb, metadata", true, nil},
		{"neither", deleter{missing: []string{"vdb"}, locked: locked}, "delete vda+vdb, metadata", false, locked},
	}
	for _, tt := range tests {
		tt.d.disks = []string{"vda", "vdb"}
		stayed, err := Delete(&tt.d, "check1")
		if got := strings.Join(tt.d.calls, ", "); got != tt.calls || stayed != tt.stayed || !errors.Is(err, tt.err) {
			t.Errorf("%s: got %v, %v after %s", tt.name, stayed, err, got)
		}
		if tt.err != nil && (!errors.Is(err, errNoBitmap) || !strings.Contains(err.Error(), "check1")) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestFind(t *testing.T) {
	all := []Checkpoint{{Checkpoint: xml.Checkpoint{Name: "check1"}}, {Checkpoint: xml.Checkpoint{Name: "check2"}}}
	if c, ok := Find(all, "check2"); !ok || c.Name != "check2" {
		t.Errorf("got %v, %v", c, ok)
	}
	if _, ok := Find(all, "check3"); ok {
		t.Error("found what is not there")
	}
	if got := Names(all); !slices.Equal(got, []string{"check1", "check2"}) {
		t.Errorf("names: %q", got)
	}
}
