package xml

import (
	"reflect"
	"strings"
	"testing"
)

func TestBackupMarshal(t *testing.T) {
	for name, backup := range map[string]Backup{
		"backup-full.xml": {
			Socket: "/var/tmp/vb/nbd.sock",
			Disks:  []BackupDisk{{Target: "vda", Scratch: "/var/tmp/vb/vda.scratch"}},
		},
		"backup-mixed.xml": {
			Socket: "/var/tmp/vb & co/nbd.sock",
			Disks: []BackupDisk{
				{Target: "vda", Incremental: "check1", Scratch: "/var/tmp/vb & co/vda.scratch"},
				{Target: "vdb", Incremental: "check2", Scratch: "/var/tmp/vb & co/vdb.scratch"},
				{Target: "vdc", Scratch: "/var/tmp/vb & co/vdc.scratch"},
			},
			Leave: []string{"sda", "vdd"},
		},
	} {
		doc, err := backup.Marshal()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		golden(t, name, doc)
		checkReadsBack(t, backup, doc)
	}
}

// checkReadsBack parses what Marshal wrote: paths with special characters have to survive.
func checkReadsBack(t *testing.T, backup Backup, doc string) {
	t.Helper()
	job, err := ParseBackup(doc)
	if err != nil {
		t.Fatal(err)
	}
	want := Job{Socket: backup.Socket}
	for _, disk := range backup.Disks {
		want.Disks = append(want.Disks, JobDisk{
			Target: disk.Target, Export: disk.Target, Scratch: disk.Scratch, Incremental: disk.Incremental != "",
		})
	}
	if !reflect.DeepEqual(job, want) {
		t.Errorf("read back:\n got %+v\nwant %+v", job, want)
	}
}

func TestBackupMarshalRefuses(t *testing.T) {
	good := BackupDisk{Target: "vda", Scratch: "/s/vda"}
	for name, backup := range map[string]Backup{
		"no disks":         {Socket: "/s/nbd"},
		"no socket":        {Disks: []BackupDisk{good}},
		"relative socket":  {Socket: "nbd", Disks: []BackupDisk{good}},
		"no scratch":       {Socket: "/s/nbd", Disks: []BackupDisk{{Target: "vda"}}},
		"relative scratch": {Socket: "/s/nbd", Disks: []BackupDisk{{Target: "vda", Scratch: "vda"}}},
		"same scratch":     {Socket: "/s/nbd", Disks: []BackupDisk{good, {Target: "vdb", Scratch: "/s/vda"}}},
		"same target":      {Socket: "/s/nbd", Disks: []BackupDisk{good, {Target: "vda", Scratch: "/s/vdb"}}},
		"chosen and left":  {Socket: "/s/nbd", Disks: []BackupDisk{good}, Leave: []string{"vda"}},
		"no target":        {Socket: "/s/nbd", Disks: []BackupDisk{{Scratch: "/s/vda"}}},
		"NUL in the path":  {Socket: "/s/\x00nbd", Disks: []BackupDisk{good}},
		"not UTF-8":        {Socket: "/s/\xffnbd", Disks: []BackupDisk{good}},
	} {
		if doc, err := backup.Marshal(); err == nil {
			t.Errorf("%s: marshalled as %s", name, doc)
		}
	}
}

func TestParseBackup(t *testing.T) {
	job, err := ParseBackup(testdata(t, "job.xml"))
	if err != nil {
		t.Fatal(err)
	}
	want := Job{Socket: "/var/tmp/vb/nbd.sock", Disks: []JobDisk{
		{Target: "vda", Export: "vda", Bitmap: "backup-vda", Scratch: "/var/tmp/vb/vda.scratch", Incremental: true},
		{Target: "vdc", Export: "vdc", Scratch: "/dev/vg0/scratch"},
	}}
	if !reflect.DeepEqual(job, want) {
		t.Errorf("\n got %+v\nwant %+v", job, want)
	}
}

// TestParseForeignBackup: jobs of other tools have to be recognised as such, not fail.
func TestParseForeignBackup(t *testing.T) {
	for doc, want := range map[string]Job{
		`<domainbackup/>`: {Push: true},
		`<domainbackup mode='push'><disks><disk name='vda' backup='yes' type='file'><target file='/b'/></disk></disks></domainbackup>`: {Push: true},
		`<domainbackup mode='pull'><server transport='tcp' name='localhost' port='10809'/></domainbackup>`:                             {},
		`<domainbackup mode='pull'><incremental>c</incremental><server transport='tcp' tls='yes'/><disks>` +
			`<disk name='vda' exportname='x'/></disks></domainbackup>`: {Disks: []JobDisk{{Target: "vda", Export: "x"}}},
	} {
		job, err := ParseBackup(doc)
		if err != nil || !reflect.DeepEqual(job, want) {
			t.Errorf("%s\n got %+v, %v\nwant %+v", doc, job, err, want)
		}
	}
}

func TestParseBackupRefuses(t *testing.T) {
	for _, doc := range []string{
		"", "<domainbackup", "<domaincheckpoint/>",
		"<domainbackup mode='pull'><disks><disk/></disks></domainbackup>",
	} {
		if job, err := ParseBackup(doc); err == nil {
			t.Errorf("%q: parsed as %+v", doc, job)
		} else if !strings.HasPrefix(err.Error(), "parse domainbackup XML: ") {
			t.Errorf("%q: error %q does not say what failed", doc, err)
		}
	}
}

func FuzzParseBackup(f *testing.F) {
	f.Add(testdata(f, "job.xml"))
	f.Add(testdata(f, "backup-mixed.xml"))
	f.Fuzz(func(t *testing.T, doc string) {
		job, err := ParseBackup(doc)
		for _, disk := range job.Disks {
			if err == nil && (disk.Target == "" || disk.Export == "") {
				t.Errorf("incomplete disk %+v", disk)
			}
		}
	})
}
