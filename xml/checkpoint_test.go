package xml

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestCheckpointMarshal(t *testing.T) {
	created := time.Unix(1795182600, 0).UTC()
	for name, checkpoint := range map[string]Checkpoint{
		"checkpoint-new.xml": {
			Name: "check1", Description: "virtbackup <repository>",
			Disks: []CheckpointDisk{{Target: "vda", Bitmap: "check1", Size: -1}, {Target: "vdc", Size: -1}},
		},
		"checkpoint-redefine.xml": {
			Name: "check2", Parent: "check1", Created: created,
			Disks: []CheckpointDisk{{Target: "vda", Bitmap: "check2", Size: -1}},
		},
	} {
		doc, err := checkpoint.Marshal()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		golden(t, name, doc)
		if back, err := ParseCheckpoint(doc); err != nil || !reflect.DeepEqual(back, checkpoint) {
			t.Errorf("%s: read back:\n got %+v, %v\nwant %+v", name, back, err, checkpoint)
		}
	}
}

func TestCheckpointMarshalRefuses(t *testing.T) {
	disks := []CheckpointDisk{{Target: "vda", Bitmap: "check1"}}
	for name, checkpoint := range map[string]Checkpoint{
		"no name":         {Disks: disks},
		"a slash":         {Name: "../check1", Disks: disks},
		"a leading dot":   {Name: ".check1", Disks: disks},
		"a space":         {Name: "check 1", Disks: disks},
		"a newline":       {Name: "check1\n", Disks: disks},
		"no disks":        {Name: "check1"},
		"same disk":       {Name: "check1", Disks: append(disks, disks...)},
		"a bare disk":     {Name: "check1", Disks: []CheckpointDisk{{}}},
		"bad description": {Name: "check1", Description: "\x01", Disks: disks},
	} {
		if doc, err := checkpoint.Marshal(); err == nil {
			t.Errorf("%s: marshalled as %s", name, doc)
		}
	}
}

func TestParseCheckpointSizes(t *testing.T) {
	got, err := ParseCheckpoint(testdata(t, "checkpoint-sizes.xml"))
	if err != nil {
		t.Fatal(err)
	}
	want := Checkpoint{
		Name: "check2", Description: "virtbackup", Parent: "check1", Created: time.Unix(1795182600, 0).UTC(),
		Disks: []CheckpointDisk{
			{Target: "vda", Bitmap: "check2", Size: 0},
			{Target: "vdb", Bitmap: "check2", Size: 1 << 20},
			{Target: "vdc", Bitmap: "check2", Size: -1},
			{Target: "vdd", Size: -1},
			{Target: "vde", Bitmap: "check2", Size: -1},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("\n got %+v\nwant %+v", got, want)
	}
}

func TestParseCheckpointRefuses(t *testing.T) {
	for _, doc := range []string{
		"", "<domaincheckpoint>", "<domainbackup/>", "<domaincheckpoint/>",
		"<domaincheckpoint><name>a</name><creationTime>today</creationTime></domaincheckpoint>",
		"<domaincheckpoint><name>a</name><disks><disk/></disks></domaincheckpoint>",
		"<domaincheckpoint><name>a</name><disks><disk name='vda' size='-1'/></disks></domaincheckpoint>",
		"<domaincheckpoint><name>a</name><disks><disk name='vda' size='18446744073709551615'/></disks></domaincheckpoint>",
	} {
		if checkpoint, err := ParseCheckpoint(doc); err == nil {
			t.Errorf("%q: parsed as %+v", doc, checkpoint)
		} else if !strings.HasPrefix(err.Error(), "parse ") {
			t.Errorf("%q: error %q does not say what failed", doc, err)
		}
	}
}

func FuzzParseCheckpoint(f *testing.F) {
	f.Add(testdata(f, "checkpoint-sizes.xml"))
	f.Add(testdata(f, "checkpoint-redefine.xml"))
	f.Fuzz(func(t *testing.T, doc string) {
		checkpoint, err := ParseCheckpoint(doc)
		if err != nil {
			return
		}
		if checkpoint.Name == "" {
			t.Error("no name")
		}
		for _, disk := range checkpoint.Disks {
			if disk.Target == "" || disk.Size < -1 {
				t.Errorf("impossible disk %+v", disk)
			}
		}
	})
}
