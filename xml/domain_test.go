package xml

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestParseDomain(t *testing.T) {
	domain, err := ParseDomain(testdata(t, "domain.xml"))
	if err != nil {
		t.Fatal(err)
	}
	if domain.Name != "db1" || domain.UUID != "0f5c6e0a-7d8c-4b1e-9d0c-2b7a4de0f0a1" {
		t.Errorf("domain is %q, %q", domain.Name, domain.UUID)
	}
	want := []struct {
		Disk
		unfit string
	}{
		{Disk{Target: "vda", Device: "disk", Bus: "virtio", Source: "/var/lib/libvirt/images/db1 & co.qcow2", SourceType: "file", Format: "qcow2", Index: 9,
			Backing: []string{"/var/lib/libvirt/images/base.img"}, BackingFormats: []string{"raw"}, BackingEnds: true}, ""},
		{Disk{Target: "vdb", Device: "disk", Bus: "virtio", Source: "/dev/vg0/db1-data", SourceType: "block", Format: "raw", Index: 8, BackingEnds: true}, ""},
		{Disk{Target: "sda", Device: "cdrom", Bus: "sata", Source: "/srv/iso/debian.iso", SourceType: "file", Format: "raw", ReadOnly: true}, "cdrom"},
		{Disk{Target: "sdb", Device: "cdrom", Bus: "sata", Format: "raw", ReadOnly: true}, "cdrom"},
		{Disk{Target: "fda", Device: "floppy", Bus: "fdc", Source: "/srv/floppy.img", SourceType: "file", Format: "raw"}, "floppy"},
		{Disk{Target: "vdc", Device: "disk", Bus: "virtio", Source: "/srv/shared-read-only.qcow2", SourceType: "file", Format: "qcow2", ReadOnly: true, Shareable: true}, "read-only"},
		{Disk{Target: "vdd", Device: "disk", Bus: "virtio", Format: "qcow2"}, "empty"},
		{Disk{Target: "vde", Device: "disk", Bus: "virtio", Source: "/srv/swap.qcow2", SourceType: "file", Format: "qcow2", Transient: true}, "transient"},
		{Disk{Target: "vdf", Device: "disk", Bus: "virtio", Source: "rbd:pool1/db1-log", SourceType: "network", Format: "raw"}, ""},
		{Disk{Target: "vdg", Device: "disk", Bus: "virtio", Source: "default/db1-extra.qcow2", SourceType: "volume", Format: "qcow2"}, ""},
		{Disk{Target: "sdc", Device: "disk", Bus: "scsi", Source: "/srv/no-driver.img", SourceType: "file", Format: "raw"}, ""},
		{Disk{Target: "sdd", Device: "lun", Bus: "scsi", Source: "/dev/disk/by-id/wwn-0x5000c500a1b2c3d4", SourceType: "block", Format: "raw", Shareable: true}, ""},
		{Disk{Target: "vdh", Device: "disk", Bus: "virtio", Source: "0000:01:00.0/1", SourceType: "nvme", Format: "raw"}, ""},
		{Disk{Target: "vdi", Device: "disk", Bus: "virtio", Source: "vhost-user", SourceType: "vhostuser", Format: "raw"}, "vhost-user"},
		{Disk{Target: "mmca", Device: "disk", Bus: "sd", Source: "/srv/card.qcow2", SourceType: "file", Format: "qcow2"}, "sd bus"},
		{Disk{Target: "vdj", Device: "disk", Bus: "virtio", Source: "/srv/secret.qcow2", SourceType: "file", Format: "qcow2", Encrypted: true}, ""},
	}
	if len(domain.Disks) != len(want) {
		t.Fatalf("%d disks, want %d: %+v", len(domain.Disks), len(want), domain.Disks)
	}
	for i, w := range want {
		got := domain.Disks[i]
		if !reflect.DeepEqual(got, w.Disk) {
			t.Errorf("disk %d:\n got %+v\nwant %+v", i, got, w.Disk)
		}
		if unfit := got.Unfit(); unfit != w.unfit {
			t.Errorf("disk %s: unfit %q, want %q", got.Target, unfit, w.unfit)
		}
	}
	if nodes := domain.Disks[0].FormatNode() + domain.Disks[2].FormatNode(); nodes != "libvirt-9-format" {
		t.Errorf("the nodes of vda and sda are %q", nodes)
	}
	if disk, ok := domain.Disk("vdb"); !ok || disk.SourceType != "block" {
		t.Errorf("Disk(vdb) = %+v, %v", disk, ok)
	}
	if _, ok := domain.Disk("vdz"); ok {
		t.Error("Disk(vdz) was found")
	}
}

// What a reader of the file alone would miss or guess: where the chain ends, and parts of files.
func TestParseDisksOfFiles(t *testing.T) {
	const file, driver = "<source file='/top'>%s</source>", "<driver name='qemu' type='qcow2'/>"
	for doc, want := range map[string]Disk{
		fmt.Sprintf(file, ""):                     {},
		fmt.Sprintf(file, "") + "<backingStore/>": {BackingEnds: true},
		fmt.Sprintf(file, "") + "<backingStore type='file'><format type='raw'/><source file='/b'/></backingStore>": {
			Backing: []string{"/b"}, BackingFormats: []string{"raw"}},
		fmt.Sprintf(file, "") + "<backingStore type='file'><source file='/b'/><backingStore/></backingStore>": {
			Backing: []string{"/b"}, BackingFormats: []string{""}, BackingEnds: true},
		fmt.Sprintf(file, "<slices><slice type='storage' offset='65536' size='1048576'/></slices>"): {Special: "slices"},
		fmt.Sprintf(file, "") + "<backingStore type='file'><format type='raw'/><source file='/b'><slices><slice type='storage' offset='1' size='1'/></slices></source></backingStore>": {
			Backing: []string{"/b"}, BackingFormats: []string{"raw"}, Special: "slices"},
		fmt.Sprintf(file, "<dataStore type='file'><format type='raw'/><source file='/data'/></dataStore>"): {Special: "dataStore"},
	} {
		domain, err := ParseDomain("<domain><name>a</name><uuid>b</uuid><devices><disk type='file'>" + driver + doc + "<target dev='vda'/></disk></devices></domain>")
		if err != nil {
			t.Errorf("%s: %v", doc, err)
			continue
		}
		want.Target, want.Device, want.Source, want.SourceType, want.Format = "vda", "disk", "/top", "file", "qcow2"
		if got := domain.Disks[0]; !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v\nwant %+v", doc, got, want)
		}
	}
}

func TestParseDomainRefuses(t *testing.T) {
	for name, doc := range map[string]string{
		"nothing":        "",
		"not XML":        "domain",
		"cut short":      "<domain><name>a</name><uuid>b</uuid>",
		"another root":   "<network><name>a</name><uuid>b</uuid></network>",
		"no name":        "<domain><uuid>b</uuid></domain>",
		"no UUID":        "<domain><name>a</name></domain>",
		"a bare disk":    "<domain><name>a</name><uuid>b</uuid><devices><disk/></devices></domain>",
		"external names": `<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/passwd">]><domain><name>&x;</name><uuid>b</uuid></domain>`,
	} {
		if domain, err := ParseDomain(doc); err == nil {
			t.Errorf("%s: parsed as %+v", name, domain)
		} else if !strings.HasPrefix(err.Error(), "parse ") {
			t.Errorf("%s: error %q does not say what failed", name, err)
		}
	}
}

func FuzzParseDomain(f *testing.F) {
	f.Add(testdata(f, "domain.xml"))
	f.Add("<domain><name>a</name><uuid>b</uuid><devices><disk type='nvme'><source type='pci'/><target dev='x'/></disk></devices></domain>")
	f.Fuzz(func(t *testing.T, doc string) {
		domain, err := ParseDomain(doc)
		if err != nil {
			return
		}
		for _, disk := range domain.Disks {
			if disk.Target == "" || disk.Format == "" || disk.Device == "" {
				t.Errorf("incomplete disk %+v", disk)
			}
			if (disk.Source == "") != (disk.SourceType == "") {
				t.Errorf("disk with half a source %+v", disk)
			}
			if disk.Source == "" && disk.Unfit() == "" {
				t.Errorf("a disk without a source is fit: %+v", disk)
			}
		}
	})
}
