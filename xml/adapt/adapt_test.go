package adapt

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

const small = `<domain><name>vm1</name><uuid>u</uuid><devices>` +
	`<disk type='file'><target dev='vda'/></disk>%s</devices></domain>`

// adaptSmall adapts a domain with further devices.
func adaptSmall(t *testing.T, devices string, request Request) Result {
	t.Helper()
	request.Dir, request.Random = "/restored", newRandom()
	result, err := Domain(fmt.Sprintf(small, devices), request)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// A disk without a source, which a point may have, gets one.
func TestDiskWithoutSource(t *testing.T) {
	got := adaptSmall(t, "", Request{Disks: []Disk{{Target: "vda", Image: "/restored/vda.qcow2", Format: "qcow2"}}}).XML
	if want := `<disk type='file'><driver name='qemu' type='qcow2'/><source file='/restored/vda.qcow2'/><target dev='vda'/></disk>`; !strings.Contains(got, want) {
		t.Errorf("got %s", got)
	}
}

// Variables whose place libvirt chose get one; their format is said where it is not raw.
func TestNVRAM(t *testing.T) {
	for os, want := range map[string]string{
		"<os firmware='efi'><type>hvm</type></os>":                                         "<nvram format='qcow2'>/restored/n</nvram></os>",
		"<os><nvram template='/t' format='raw'>/n</nvram></os>":                            "<os><nvram template='/t' format='qcow2'>/restored/n</nvram></os>",
		"<os><nvram type='file'><source file='/n'><seclabel/></source></nvram></os>":       "<os><nvram type='file' format='qcow2'><source file='/restored/n'/></nvram></os>",
		"<os><nvram type='network'><source protocol='rbd' name='a'/></nvram></os>":         "<os><nvram format='qcow2'>/restored/n</nvram></os>",
		"<os><varstore path='/v.json'/><acpi><table type='slic'>/slic</table></acpi></os>": "<os><varstore path='/restored/v.json'/><acpi><table type='slic'>/restored/slic</table></acpi>",
	} {
		doc := strings.Replace(fmt.Sprintf(small, ""), "<devices>", os+"<devices>", 1)
		got, err := Domain(doc, Request{NVRAM: File{"/restored/n", "qcow2"}, Files: map[string]string{"/v.json": "/restored/v.json", "/slic": "/restored/slic"}})
		if err != nil || !strings.Contains(got.XML, want) {
			t.Errorf("%s: %v, %s", os, err, got.XML)
		}
	}
}

// What a path means is kept in XML that needs escapes.
func TestOddPaths(t *testing.T) {
	got := adaptSmall(t, "", Request{Disks: []Disk{{Target: "vda", Image: `/a'b"<&>.qcow2`, Format: "qcow2"}}}).XML
	if want := `file='/a&apos;b"&lt;&amp;&gt;.qcow2'`; !strings.Contains(got, want) {
		t.Errorf("got %s", got)
	}
}

// Files that move to the directory of the images neither replace an image nor each other.
func TestMovedFilesHaveNamesOfTheirOwn(t *testing.T) {
	got := adaptSmall(t, `<serial type='file'><source path='/x/vda.qcow2'/></serial><serial type='file'><source path='/x/a.log'/></serial>`+
		`<serial type='file'><source path='/y/a.log'/></serial><console type='file'><source path='/x/a.log'/></console>`,
		Request{Name: "new", Disks: []Disk{{Target: "vda", Image: "/restored/vda.qcow2", Format: "qcow2"}}}).XML
	for want, times := range map[string]int{"/restored/vda-2.qcow2": 1, "/restored/a.log": 2, "/restored/a-2.log": 1} {
		if strings.Count(got, "'"+want+"'") != times {
			t.Errorf("%s is not there %d times: %s", want, times, got)
		}
	}
}

// A file that was in the directory of the images before: the domain itself has it there again, and
// another domain, whose original may come back, has one of its own.
func TestFileInTheSameDirectory(t *testing.T) {
	for name, want := range map[string]string{"": "/restored/a.log", "new": "/restored/a-2.log"} {
		got := adaptSmall(t, `<serial type='file'><source path='/restored/a.log'/></serial>`,
			Request{Name: name, Exists: func(string) bool { return false }, Disks: []Disk{{Target: "vda", Image: "/restored/vda.qcow2", Format: "qcow2"}}})
		if said := strings.Contains(strings.Join(got.Notes, "\n"), "serial"); !strings.Contains(got.XML, "'"+want+"'") || said != (name != "") {
			t.Errorf("name %q: notes %q, %s", name, got.Notes, got.XML)
		}
	}
}

// Cards of one domain have different addresses, and no old one.
func TestAddressesAreUnique(t *testing.T) {
	const card = `<interface><mac address='52:54:00:00:00:01'/></interface>`
	seen := map[string]bool{"52:54:00:00:00:01": true}
	for _, part := range strings.Split(adaptSmall(t, strings.Repeat(card, 40), Request{Name: "new"}).XML, "<mac address='")[1:] {
		mac := part[:17]
		if seen[mac] || !strings.HasPrefix(mac, "52:54:00:") {
			t.Errorf("address %s", mac)
		}
		seen[mac] = true
	}
}

func TestRefused(t *testing.T) {
	for doc, request := range map[string]Request{
		"<domain": {}, "<network><name>a</name><uuid>b</uuid></network>": {}, "<domain><name>a</name></domain>": {}, "<domain><uuid>a</uuid></domain>": {},
		fmt.Sprintf(small, ""):  {Disks: []Disk{{Target: "vdb"}}},
		fmt.Sprintf(small, " "): {Name: "a\x01"},
		fmt.Sprintf(small, "<interface><mac address='52:54:00:00:00:01'/></interface>"): {Name: "a", Random: iotest.ErrReader(errors.New("none"))},
	} {
		if got, err := Domain(doc, request); err == nil {
			t.Errorf("%s with %+v became %s", doc, request, got.XML)
		}
	}
}

// A second adaptation to the same images changes nothing but what is random each time.
func TestAgain(t *testing.T) {
	domains(t, func(t *testing.T, name, doc string, request Request) {
		if request.Name != "" {
			return
		}
		first, err := Domain(doc, request)
		if err != nil {
			t.Fatal(err)
		}
		request.Random = newRandom()
		second, err := Domain(first.XML, request)
		if err != nil {
			t.Fatal(err)
		}
		if first.XML != second.XML {
			t.Errorf("changed again: %s", difference(first.XML, second.XML))
		}
		if slices.ContainsFunc(second.Notes, func(n string) bool { return strings.Contains(n, "instead of") }) {
			t.Errorf("notes: %q", second.Notes)
		}
	})
}

// FuzzDomain: whatever a domain's XML is, it is refused or adapted, and what was made can be
// adapted again.
func FuzzDomain(f *testing.F) {
	for _, name := range []string{"vnc", "networks", "windows11", "running"} {
		doc, err := os.ReadFile("testdata/" + name + ".xml")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(doc), "copy")
	}
	f.Fuzz(func(t *testing.T, doc, name string) {
		result, err := Domain(doc, Request{Name: name, Dir: "/restored", Random: newRandom()})
		if err != nil {
			return
		}
		if _, err := Domain(result.XML, Request{Dir: "/restored", Random: newRandom()}); err != nil && strings.TrimSpace(result.Name) != "" {
			t.Errorf("%v: %s", err, result.XML)
		}
	})
}

// A copy has no disk that it would write to and the original, too: not one of any type that
// the point does not have, nor a floppy.
func TestCopyWritesToNothingOfTheOriginal(t *testing.T) {
	const others = `<disk type='file' device='disk'><source file='/orig/vdb.raw'/><target dev='vdb'/></disk>
<disk type='block' device='lun'><source dev='/dev/sdx'/><target dev='sda'/></disk>
<disk type='network' device='disk'><source protocol='rbd' name='p/orig'/><target dev='vdc'/></disk>
<disk type='file' device='floppy'><source file='/orig/fd.img'/><target dev='fda'/></disk>
<disk type='file' device='cdrom'><source file='/orig/cd.iso'/><target dev='hda'/><readonly/></disk>
<disk type='file' device='disk'><source file='/orig/ro.raw'/><target dev='vdd'/><readonly/></disk>
<redirdev bus='usb' type='unix'><source mode='bind' path='/orig/usb.sock'/></redirdev>
<smartcard mode='passthrough' type='unix'><source mode='bind' path='/orig/card.sock'/></smartcard>
<rng model='virtio'><backend model='egd' type='unix'><source mode='bind' path='/orig/rng.sock'/></backend></rng>
<interface type='vhostuser'><mac address='52:54:00:00:00:01'/><source type='unix' path='/orig/net.sock' mode='server'/></interface>
<audio id='1' type='file' path='/orig/audio.wav'/>
<memory model='nvdimm'><source><path>/orig/nvdimm</path></source><target><size>1</size></target></memory>
<memory model='nvdimm'><source><path>/orig/ro</path></source><target><size>1</size><readonly/></target></memory>
<memory model='nvdimm' access='private'><source><path>/orig/private</path></source><target><size>1</size></target></memory>`
	const os = `<os><loader readonly='no' type='pflash'>/orig/loader.fd</loader><varstore path='/orig/vars.json'/></os>`
	for name, keeps := range map[string]bool{"": true, "new": false} {
		doc := strings.Replace(fmt.Sprintf(small, others), "<devices>", os+"<devices>", 1)
		got, err := Domain(doc, Request{Name: name, Dir: "/restored", Random: newRandom(), Disks: []Disk{{Target: "vda", Image: "/restored/vda.qcow2", Format: "qcow2"}}})
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"/orig/vdb.raw", "/dev/sdx", "p/orig", "/orig/fd.img", "/orig/usb.sock", "/orig/card.sock", "/orig/rng.sock",
			"/orig/net.sock", "/orig/audio.wav", "/orig/vars.json"} {
			if strings.Contains(got.XML, "'"+path+"'") != keeps {
				t.Errorf("copy %q: %s is in it: %v", name, path, !keeps)
			}
			if said := strings.Contains(strings.Join(got.Notes, "\n"), path); !keeps && !said {
				t.Errorf("no note of %s", path)
			}
		}
		if strings.Contains(got.XML, "/orig/nvdimm") != keeps {
			t.Errorf("copy %q: the NVDIMM is in it: %v", name, !keeps)
		}
		for _, path := range []string{"/orig/cd.iso", "/orig/ro.raw", "/orig/ro<", "/orig/private<"} {
			if !strings.Contains(got.XML, path) {
				t.Errorf("copy %q: %s is gone", name, path)
			}
		}
	}
}

// The policies of the disks that are named change, and nothing else does, there and back.
func TestPolicies(t *testing.T) {
	const doc = `<domain type='qemu'><name>a</name><devices>
 <disk type='file'><driver name='qemu' type='qcow2' error_policy='report'/><target dev='vda'/></disk>
 <disk type='file'><driver name='qemu'  type='raw' cache='none'/><target dev='vdb'/></disk>
 <disk type='file' device='cdrom'><target dev='sda'/></disk></devices></domain>`
	was, err := PoliciesOf(doc)
	if err != nil || len(was) != 3 || was["vda"]["error_policy"] != "report" || was["vda"]["rerror_policy"] != "" {
		t.Fatalf("%v, %v", was, err)
	}
	stop := Policies{"error_policy": "stop", "rerror_policy": "stop"}
	changed, err := WithPolicies(doc, map[string]Policies{"vda": stop, "vdb": stop, "sda": stop, "vdz": stop})
	if err != nil || strings.Count(changed, `error_policy='stop'`) != 4 || strings.Contains(changed, "report") {
		t.Errorf("%s, %v", changed, err)
	}
	if back, err := WithPolicies(changed, was); err != nil || back != doc {
		t.Errorf("back: %s, %v", back, err)
	}
	if _, err := PoliciesOf("<domain"); err == nil {
		t.Error("no error for what is no XML")
	}
}
