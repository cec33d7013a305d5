package machine

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/xml"
	"github.com/virtbackup/virtbackup/xml/edit"
)

const (
	dir  = "/run/drill"
	uuid = "11111111-2222-4333-8444-555555555555"
)

// requestFor is a drill of all disks and files of a domain.
func requestFor(t *testing.T, doc string) Request {
	t.Helper()
	domain, err := xml.ParseDomain(doc)
	if err != nil {
		t.Fatal(err)
	}
	r := Request{Name: "virtbackup-drill-0123456789abcdef", Title: "vm1@check1", UUID: uuid, GenID: uuid, Owner: Owner{"repo", "id"},
		Disks: map[string]string{}, Files: map[string]string{}, NVRAM: dir + "/variables", Console: dir + "/console.sock"}
	for _, d := range domain.Disks {
		if d.Unfit() == "" {
			r.Disks[d.Target] = dir + "/" + d.Target + ".qcow2"
		}
	}
	boot, err := xml.ParseBoot(doc)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(boot.ACPITables, boot.Kernel, boot.Initrd, boot.DTB, boot.Shim) {
		r.Files[path] = dir + "/file"
	}
	if boot.Loader != nil && !packaged(boot.Loader.Source) {
		r.Files[boot.Loader.Source] = dir + "/loader"
	}
	return r
}

// all are the elements below one, itself included.
func all(e *edit.Element) []*edit.Element {
	found := []*edit.Element{e}
	for _, child := range e.Elements() {
		found = append(found, all(child)...)
	}
	return found
}

// absolute finds what may be a path in a value.
var absolute = regexp.MustCompile(`(^|[\s:=,])/`)

// wantClosed sees that a domain has nothing that leads outside of the drill.
func wantClosed(t *testing.T, doc string) *edit.Element {
	t.Helper()
	parsed, err := edit.Parse(doc)
	if err != nil {
		t.Fatalf("%v\n%s", err, doc)
	}
	root := parsed.Root()
	devices := []string{"disk", "controller", "serial", "console", "channel", "video", "tpm", "rng", "memballoon"}
	for _, e := range root.Child("devices").Elements() {
		if !slices.Contains(devices, e.Name()) {
			t.Errorf("a device %s", e)
		}
	}
	top := []string{"name", "uuid", "genid", "title", "metadata", "memory", "vcpu", "cpu", "os", "features", "clock", "on_poweroff", "on_reboot", "on_crash", "devices"}
	for _, e := range root.Elements() {
		if !slices.Contains(top, e.Name()) {
			t.Errorf("an element %s", e)
		}
	}
	for _, e := range all(root) {
		texts := []string{e.Text()}
		for _, name := range e.AttrNames() {
			texts = append(texts, e.Value(name))
		}
		for _, text := range texts {
			ours := strings.HasPrefix(text, dir+"/") || packaged(text) && (e.Name() == "loader" || e.Name() == "nvram") || text == "/dev/urandom" && e.Name() == "backend"
			if absolute.MatchString(text) && !ours && e.Name() != "cmdline" && e.Name() != "drill:drill" {
				t.Errorf("a path: %s", e)
			}
		}
	}
	for _, name := range []string{"on_poweroff", "on_reboot", "on_crash"} {
		if got := root.Child(name).Text(); got != "destroy" {
			t.Errorf("%s is %q", name, got)
		}
	}
	for _, e := range root.Children("devices/disk") {
		if !strings.HasPrefix(e.Child("source").Value("file"), dir+"/") || len(e.Child("source").AttrNames()) != 1 || e.Child("backingStore") != nil {
			t.Errorf("a disk: %s", e)
		}
	}
	if owner, ok := OwnerOf(doc); !ok || owner != (Owner{"repo", "id"}) {
		t.Errorf("it is that of %v, %v", owner, ok)
	}
	return root
}

// Of each real domain the drill's has its disks and its kind of machine, and nothing that leads
// outside.
func TestRealDomains(t *testing.T) {
	files, err := filepath.Glob("../../xml/adapt/testdata/*.xml")
	if err != nil || len(files) < 18 {
		t.Fatal(len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".xml"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			request := requestFor(t, string(data))
			m, err := New(string(data), request)
			if err != nil {
				t.Fatal(err)
			}
			root := wantClosed(t, m.XML)
			if len(m.Targets) != len(request.Disks) || len(root.Children("devices/disk")) != len(request.Disks) {
				t.Errorf("disks %v of %v", m.Targets, request.Disks)
			}
			original, err := edit.Parse(string(data))
			if err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{"os/type", "cpu/model"} {
				if got, want := root.Child(path).String(), original.Root().Child(path).String(); got != want {
					t.Errorf("%s is %s, want %s", path, got, want)
				}
			}
			if old := original.Root().Child("uuid").Text(); strings.Contains(m.XML, old) {
				t.Errorf("its UUID %s is still there", old)
			}
			if _, err := xml.ParseDomain(m.XML); err != nil {
				t.Error(err)
			}
		})
	}
}

// hostile is a domain whose XML tries to take along what it may not.
const hostile = `<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>vm'/>&lt;hostdev/></name><uuid>00000000-0000-0000-0000-000000000001</uuid>
  <metadata><drill:drill xmlns:drill='https://github.com/virtbackup/virtbackup/drill/1' repository='other' id='other'/></metadata>
  <memory unit='GiB'>64</memory><vcpu current='2'>8</vcpu>
  <cpu mode='custom'><model>/etc/shadow</model><numa><cell id='0' memAccess='shared'/></numa><topology sockets='8' cores='1' threads='1'/></cpu>
  <os><type arch='x86_64' machine='pc,accel=/etc/passwd'>hvm</type><kernel>/srv/vmlinuz</kernel><cmdline>a &lt;b&gt; 'c'</cmdline>
    <nvram template='/usr/local/evil.fd'>/srv/vars.fd</nvram><boot dev='network'/></os>
  <features><acpi/><kvm><hidden state='on'/><evil path='/x'/></kvm><smm state='on'><tseg unit='MiB'>48</tseg></smm></features>
  <clock offset='timezone' timezone='/etc/localtime'><timer name='rtc'/></clock>
  <on_reboot>restart</on_reboot>
  <devices>
    <emulator>/tmp/evil</emulator>
    <disk type='network' device='lun' sgio='unfiltered'><driver name='qemu' type='raw' iothread='1'/><source protocol='iscsi' name='x'><host name='h'/></source>
      <backingStore type='file'><source file='/srv/base'/></backingStore><mirror><source file='/srv/m'/></mirror>
      <target dev='sda' bus='scsi' tray='open'/><serial>/etc/shadow</serial><encryption/><shareable/><address type='drive' controller='0' bus='0' target='0' unit='0' evil='1'/></disk>
    <disk type='file'><source file='/srv/twice'/><target dev='sda'/></disk>
    <disk type='block'><source dev='/dev/sdz'/><target dev='sdb'/></disk>
    <controller type='scsi' index='0' model='virtio-scsi'><driver queues='4' iothread='1'/></controller>
    <controller type='ccid' index='0'/>
    <interface type='network'/><hostdev mode='subsystem'/><filesystem/><redirdev/><shmem name='x'/><vsock/><memory model='nvdimm'><source><path>/srv/p</path></source></memory>
    <serial type='dev'><source path='/dev/ttyS0'/><log file='/srv/log'/><target type='isa-serial' port='0'><model name='isa-serial'/></target></serial>
    <channel type='unix'><source mode='bind' path='/srv/agent'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>
    <graphics type='vnc' listen='0.0.0.0'/><video><model type='virtio'><acceleration accel3d='yes' rendernode='/dev/dri/renderD128'/></model><driver vgaconf='on'/></video>
    <tpm model='tpm-crb'><backend type='emulator' version='2.0' persistent_state='yes'><source type='dir' path='/srv/tpm'/></backend></tpm>
    <rng model='virtio'><backend model='egd' type='udp'><source host='h'/></backend></rng>
  </devices>
  <qemu:commandline><qemu:arg value='-S'/></qemu:commandline><seclabel type='none'/>
</domain>`

func TestHostileDomain(t *testing.T) {
	request := Request{Name: "n", Title: "<title>", UUID: uuid, Owner: Owner{"repo", "id"}, Disks: map[string]string{"sda": dir + "/sda.qcow2"},
		Files: map[string]string{"/srv/vmlinuz": dir + "/kernel"}, NVRAM: dir + "/variables", Console: dir + "/c.sock", MostMemory: 1 << 30, MostVCPUs: 1}
	m, err := New(hostile, request)
	if err != nil {
		t.Fatal(err)
	}
	root := wantClosed(t, m.XML)
	for _, word := range []string{"evil", "shadow", "passwd", "iothread", "numa", "qemu:", "timezone", "ccid", "sdb", "persistent", "accel", "other"} {
		if strings.Contains(m.XML, word) {
			t.Errorf("%q is in\n%s", word, m.XML)
		}
	}
	if m.Memory != 1<<30 || m.VCPUs != 1 || len(m.Notes) != 2 || !m.Agent || !m.Screen || !m.TPM || root.Child("cpu/topology") != nil {
		t.Errorf("it is %+v", m)
	}
	if got := root.Child("os/cmdline").Text(); got != "a <b> 'c'" {
		t.Errorf("the kernel's command line is %q", got)
	}
	if root.Child("os/kernel").Text() != dir+"/kernel" || root.Child("features/smm/tseg").Text() != "48" || len(root.Children("devices/disk")) != 1 {
		t.Errorf("it lacks something:\n%s", m.XML)
	}
	request.Memory, request.VCPUs = 512<<20, 4
	if m, err = New(hostile, request); err != nil || m.Memory != 512<<20 || m.VCPUs != 4 || len(m.Notes) > 0 {
		t.Errorf("with numbers of one's own: %+v, %v", m, err)
	}
}

// What cannot be booted is refused in words.
func TestRefused(t *testing.T) {
	const start = "<domain type='qemu'><memory>65536</memory><os><type>hvm</type>"
	for doc, want := range map[string]string{
		"<domain type='lxc'/>":  `of type "lxc"`,
		"<network type='kvm'/>": `of type "kvm"`,
		"<domain":               "XML",
		"<domain type='qemu'><memory>x</memory></domain>":                              "memory",
		"<domain type='qemu'><memory unit='EiB'>9</memory></domain>":                   "memory",
		"<domain type='qemu'><memory>65536</memory><vcpu>-1</vcpu></domain>":           "processors",
		"<domain type='qemu'><memory>65536</memory><os><type>xen</type></os></domain>": "not hvm",
		start + "<kernel>/srv/vmlinuz</kernel></os></domain>":                          "/srv/vmlinuz, which the point does not have",
		start + "<loader>/usr/../srv/x.fd</loader></os></domain>":                      "which the point does not have",
		start + "<loader type='pflash' readonly='no'>/usr/x.fd</loader></os></domain>": "write to its firmware /usr/x.fd",
		start + "<acpi><table type='slic'>/srv/t</table></acpi></os></domain>":         "an ACPI table",
		start + "</os><devices><disk><target dev='vdb'/></disk></devices></domain>":    "none of the disks",
	} {
		if _, err := New(doc, Request{Disks: map[string]string{"vda": dir + "/vda"}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", doc, err, want)
		}
	}
}

// The host's own firmware is never writable, which is libvirt's default for flash.
func TestFirmwareOfTheHost(t *testing.T) {
	for _, attrs := range []string{"", " readonly='yes'", " readonly='/'"} {
		doc := "<domain type='qemu'><memory>65536</memory><os><type>hvm</type><loader type='pflash'" + attrs + ">/usr/x.fd</loader></os><devices><disk><target dev='vda'/></disk></devices></domain>"
		m, err := New(doc, Request{Disks: map[string]string{"vda": dir + "/vda"}, NVRAM: dir + "/variables"})
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := edit.Parse(m.XML)
		if err != nil {
			t.Fatal(err)
		}
		if os := parsed.Root().Child("os"); os.Child("loader").Value("readonly") != "yes" || os.Child("nvram").Text() != dir+"/variables" {
			t.Errorf("%q became %s", attrs, os)
		}
	}
}

func FuzzNew(f *testing.F) {
	f.Add(hostile)
	files, _ := filepath.Glob("../../xml/adapt/testdata/*.xml")
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(data))
	}
	f.Fuzz(func(t *testing.T, doc string) {
		request := Request{Name: "n", UUID: uuid, GenID: uuid, Owner: Owner{"repo", "id"}, NVRAM: dir + "/v", Console: dir + "/c",
			Disks: map[string]string{"vda": dir + "/vda", "sda": dir + "/sda"}, Files: map[string]string{"/srv/vmlinuz": dir + "/kernel"}}
		if m, err := New(doc, request); err == nil && edit.Carries(m.XML) {
			wantClosed(t, m.XML)
		}
	})
}
