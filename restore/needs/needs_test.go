package needs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/hypervisor"
)

// host is a host with the networks, pools and machines of a small server.
type host struct{ broken error }

const capabilities = `<capabilities><guest><os_type>hvm</os_type><arch name='x86_64'>
<machine maxCpus='288'>pc-q35-9.2</machine><machine>pc-q35-10.0</machine><machine>pc</machine>
<domain type='qemu'/>%s</arch></guest></capabilities>`

const domainCapabilities = `<domainCapabilities>
<os supported='yes'><enum name='firmware'><value>bios</value></enum><loader supported='yes'><enum name='secure'><value>no</value></enum></loader></os>
<cpu><mode name='host-passthrough' supported='no'/><mode name='custom' supported='yes'><model usable='yes'>qemu64</model><model>EPYC</model></mode></cpu>
<devices><tpm supported='yes'><enum name='model'><value>tpm-tis</value></enum><enum name='backendModel'><value>passthrough</value></enum></tpm>
<graphics supported='yes'><enum name='type'><value>vnc</value></enum></graphics></devices>
<features><sev supported='no'/></features></domainCapabilities>`

func (h host) Capabilities() (string, error) {
	return fmt.Sprintf(capabilities, "<domain type='kvm'><machine>kvm-only-1.0</machine></domain>"), h.broken
}

func (h host) DomainCapabilities(emulator, arch, machine, virtType string) (string, error) {
	if machine == "pc" && emulator == "/bin/sh" {
		return "", errors.New("libvirt says why")
	}
	return domainCapabilities, nil
}

func (h host) CompareCPU(emulator, arch, machine, cpu string) (bool, string, error) {
	return !strings.Contains(cpu, "EPYC"), "no sse9", nil
}

func (h host) Network(name string) (hypervisor.Presence, error) {
	return map[string]hypervisor.Presence{"default": hypervisor.Active, "off": hypervisor.Inactive}[name], h.broken
}

func (h host) Volume(pool, name string) (hypervisor.Presence, bool, error) {
	return map[string]hypervisor.Presence{"default": hypervisor.Active, "off": hypervisor.Inactive}[pool], name == "v", h.broken
}

func (h host) TryStart(doc string) error {
	switch {
	case strings.Contains(doc, "<odd"):
		return fmt.Errorf("odd: %w", hypervisor.ErrUnsupported)
	case strings.Contains(doc, "<doubtful"):
		return errors.New("doubtful")
	}
	return nil
}

// root makes the files of a host.
func root(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for path, content := range map[string]string{
		"/sys/class/net/br0/x": "", "/sys/bus/pci/devices/0000:01:00.0/x": "", "/sys/bus/mdev/devices/u1/x": "", "/bin/sh": "", "/iso/a.iso": "",
		"/sys/bus/usb/devices/1-1/idVendor": "1050\n", "/sys/bus/usb/devices/1-1/idProduct": "0407\n",
		"/sys/bus/usb/devices/1-1/busnum": "1\n", "/sys/bus/usb/devices/1-1/devnum": "3\n",
	} {
		if err := os.MkdirAll(filepath.Dir(dir+path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Each thing that is missing is found, with what to do; what is there is not.
func TestLacks(t *testing.T) {
	at := root(t)
	for what, want := range map[string]string{
		"":                            "",
		"@type='kvm'":                 "",
		"machine=pc-q35-10.0":         "",
		"machine=kvm-only-1.0":        "",
		"machine=pc-q35-7.2":          "no machine type pc-q35-7.2 / pc-q35-10.0",
		"machine=virt":                "no machine type virt",
		"arch=aarch64":                "architecture aarch64 / qemu-system-arm",
		"emulator=/usr/bin/none":      "emulator /usr/bin/none does not exist / qemu-system-x86",
		"machine=pc,emulator=/bin/sh": "libvirt says why",

		"<os firmware='efi'><type arch='x86_64'>hvm</type></os>":                              "no firmware of type efi / ovmf",
		"<os><loader secure='yes'>/none.fd</loader></os>":                                     "firmware /none.fd does not exist / ovmf; secure='yes'",
		"<os><nvram template='/t.fd'>/n.fd</nvram></os>":                                      "template of the firmware's variables /t.fd",
		"<os><nvram template='/t.fd'>/restored/n.fd</nvram><kernel>/restored/k</kernel></os>": "",
		"<os><kernel>/none/vmlinuz</kernel><initrd>/bin/sh</initrd></os>":                     "<kernel> /none/vmlinuz does not exist / copy it",

		"<cpu mode='host-passthrough'/>":                                       "processor mode host-passthrough is not supported",
		"<cpu mode='host-model'/>":                                             "",
		"<cpu><model>qemu64</model></cpu>":                                     "",
		"<cpu mode='custom'><model>Opteron</model></cpu>":                      "no processor model Opteron",
		"<cpu mode='custom'><model>EPYC</model></cpu>":                         "",
		"@type='kvm'<cpu mode='custom'><model>EPYC</model></cpu>":              "not a EPYC: no sse9",
		"@type='kvm'<cpu mode='custom' check='none'><model>EPYC</model></cpu>": "",
		"<launchSecurity type='sev'/>":                                         "launch security of type sev",

		"[<interface type='bridge'><source bridge='br0'/></interface>]":                       "",
		"[<interface type='bridge'><source bridge='br1'/></interface>]":                       "bridge br1 does not exist / create it",
		"[<interface type='direct'><source dev='eno1'/></interface>]":                         "network interface eno1",
		"[<interface type='ethernet'><target dev='tap0' managed='no'/></interface>]":          "network interface tap0",
		"[<interface type='ethernet'><target dev='tap0'/></interface>]":                       "",
		"[<interface type='user'/>]":                                                          "",
		"[<interface type='network'><source network='default'/></interface>]":                 "",
		"[<interface type='network'><source network='dmz'/></interface>]":                     "network dmz does not exist / net-define",
		"[<interface type='network'><source network='off'/></interface>]":                     "network off is not active / net-start",
		"[<interface type='vhostuser'><source path='/none.sock' mode='client'/></interface>]": "vhost-user socket /none.sock",

		"[<disk type='file'><source file='/restored/vda.qcow2'/><target dev='vda'/></disk>]":                           "",
		"[<disk type='file'><source file='/none/vdb.raw'/><target dev='vdb'/></disk>]":                                 "storage of disk vdb, /none/vdb.raw does not exist / does not have this disk",
		"[<disk type='file'><source file='/none/b' startupPolicy='optional'/></disk>]":                                 "",
		"[<disk type='file' device='cdrom'/>]":                                                                         "",
		"[<disk type='file'><source file='/iso/a.iso'/><target dev='sda'/></disk>]":                                    "",
		"[<disk type='block'><source dev='/dev/none0'/><target dev='vdb'/></disk>]":                                    "disk vdb, /dev/none0",
		"[<disk type='network'><source protocol='rbd' name='a/b'/><target dev='vdb'/></disk>]":                         "",
		"[<disk type='volume'><source pool='default' volume='v'/></disk>]":                                             "",
		"[<disk type='volume'><source pool='default' volume='w'/></disk>]":                                             "pool default has no volume w / vol-list",
		"[<disk type='volume'><source pool='off' volume='w'/></disk>]":                                                 "pool off is not active / pool-start",
		"[<disk type='volume'><source pool='none' volume='w'/></disk>]":                                                "pool none does not exist",
		"[<disk type='nvme'><source><address domain='0x0000' bus='0x02' slot='0x00' function='0x0'/></source></disk>]": "PCI device 0000:02:00.0",

		"[<hostdev type='pci'><source><address domain='0x0000' bus='0x01' slot='0x00' function='0x0'/></source></hostdev>]": "",
		"[<hostdev type='pci'><source><address domain='0x0000' bus='0x41' slot='0x00' function='0x1'/></source></hostdev>]": "PCI device 0000:41:00.1 / take it out",
		"[<hostdev type='usb'><source><vendor id='0x1050'/><product id='0x0407'/></source></hostdev>]":                      "",
		"[<hostdev type='usb'><source><vendor id='0x1050'/><product id='0x0408'/></source></hostdev>]":                      "USB device 1050:0408",
		"[<hostdev type='usb'><source startupPolicy='optional'><vendor id='0x1050'/></source></hostdev>]":                   "",
		"[<hostdev type='usb'><source><address bus='1' device='3'/></source></hostdev>]":                                    "",
		"[<hostdev type='usb'><source><address bus='1' device='4'/></source></hostdev>]":                                    "no USB device 4 on bus 1",
		"[<hostdev type='mdev'><source><address uuid='u1'/></source></hostdev>]":                                            "",
		"[<hostdev type='mdev'><source><address uuid='u2'/></source></hostdev>]":                                            "mediated device u2",

		"<odd/>":                     "libvirt says: odd",
		"[<graphics type='spice'/>]": "graphics of type spice / vnc instead",
		"[<graphics type='vnc'/>]":   "",
		"[<tpm model='tpm-crb'><backend type='emulator'/></tpm>]":                                       "tpm of type tpm-crb; tpm/backend of type emulator / swtpm",
		"[<tpm model='tpm-tis'><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>]": "the TPM /dev/tpm0 does not exist",
		"[<filesystem><source dir='/srv/none'/></filesystem>]":                                          "shared directory /srv/none / mkdir -p",
		"[<memory model='nvdimm'><source><path>/nv</path></source></memory>]":                           "memory device /nv",
		"[<serial type='dev'><source path='/dev/none'/></serial>]":                                      "serial device /dev/none",
		"[<serial type='unix'><source path='/restored/" + strings.Repeat("x", 100) + "'/></serial>]":    "more than 107 bytes / shorter",
	} {
		t.Run(what, func(t *testing.T) {
			found, err := Of(domainWith(what), host{}, Options{Dir: "/restored", Start: true, Root: at})
			if err != nil || len(found.Doubts) > 0 {
				t.Fatal(err, found.Doubts)
			}
			got := found.Lacks
			var parts []string
			if want != "" {
				parts = strings.Split(want, "; ")
			}
			if len(got) != len(parts) {
				t.Fatalf("got %q, want %q", got, parts)
			}
			for i, part := range parts {
				text, hint, _ := strings.Cut(part, " / ")
				if !strings.Contains(got[i].What, text) || !strings.Contains(got[i].Hint, hint) {
					t.Errorf("got %q, want %q", got[i], part)
				}
			}
		})
	}
}

// domainWith is a domain with something: "@" attributes of <domain>, machine=, arch= and
// emulator= other ones, "[]" devices, else elements of <domain>.
func domainWith(what string) string {
	kind, machine, arch, emulator, devices, elements := "type='qemu'", "pc", "x86_64", "", "", what
	if strings.HasPrefix(what, "@type='kvm'") {
		kind, elements = "type='kvm'", what[len("@type='kvm'"):]
	}
	if strings.HasPrefix(what, "[") {
		devices, elements = strings.Trim(what, "[]"), ""
	}
	for _, part := range strings.Split(elements, ",") {
		name, value, _ := strings.Cut(part, "=")
		switch name {
		case "machine":
			machine, elements = value, ""
		case "arch":
			arch, elements = value, ""
		case "emulator":
			emulator, elements = "<emulator>"+value+"</emulator>", ""
		}
	}
	os := fmt.Sprintf("<os><type arch='%s' machine='%s'>hvm</type></os>", arch, machine)
	if strings.Contains(elements, "<os") {
		at := strings.Index(elements, ">") + 1
		os, elements = elements[:at]+os[len("<os>"):len(os)-len("</os>")]+elements[at:], ""
	}
	return "<domain " + kind + ">" + os + elements + "<devices>" + emulator + devices + "</devices></domain>"
}

// All that is missing is told at once, each thing once.
func TestAllAtOnce(t *testing.T) {
	found, err := Of(domainWith("[<interface type='bridge'><source bridge='br1'/></interface><interface type='bridge'><source bridge='br1'/></interface>"+
		"<interface type='network'><source network='off'/></interface><disk type='file'><source file='/none'/></disk><hostdev type='mdev'><source><address uuid='u2'/></source></hostdev>]"),
		host{}, Options{Root: root(t)})
	if err != nil || len(found.Lacks) != 3 {
		t.Errorf("got %q, %v", found, err)
	}
}

// withoutKVM is a host without /dev/kvm: libvirt does not offer the type kvm then.
type withoutKVM struct{ host }

func (withoutKVM) Capabilities() (string, error) { return fmt.Sprintf(capabilities, ""), nil }

func TestNoKVM(t *testing.T) {
	for what, want := range map[string]int{"@type='kvm'": 1, "": 0} {
		found, err := Of(domainWith(what), withoutKVM{}, Options{Root: root(t)})
		if err != nil || len(found.Lacks) != want || want > 0 && !strings.Contains(fmt.Sprint(found.Lacks[0]), "KVM is not available") {
			t.Errorf("%s: %q, %v", what, found, err)
		}
	}
}

// What libvirt says against a start may not be true: it is a doubt, and none where the domain
// has devices of the host.
func TestDoubts(t *testing.T) {
	for what, want := range map[string]int{"<doubtful/>": 1, "[<doubtful/><hostdev/>]": 0} {
		found, err := Of(domainWith(what), host{}, Options{Root: root(t)})
		if err != nil || len(found.Lacks) > 0 || len(found.Doubts) != want {
			t.Errorf("%s: %q, %v", what, found, err)
		}
	}
}

func TestLibvirtFails(t *testing.T) {
	broken := errors.New("gone")
	for _, what := range []string{"", "[<interface type='network'><source network='a'/></interface>]", "[<disk type='volume'><source pool='a' volume='b'/></disk>]"} {
		if _, err := Of(domainWith(what), host{broken}, Options{Root: root(t)}); !errors.Is(err, broken) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := Of("<domain", host{}, Options{}); err == nil {
		t.Error("XML that is none was accepted")
	}
}

func TestCompareVersions(t *testing.T) {
	got := []string{"pc-q35-10.0", "pc-q35-9.2", "pc-q35-2.12", "pc-q35-x"}
	slices.SortFunc(got, compareVersions)
	if want := []string{"pc-q35-x", "pc-q35-2.12", "pc-q35-9.2", "pc-q35-10.0"}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

// The real libvirt answers as the one above.
func TestRealHost(t *testing.T) {
	if testing.Short() {
		t.Skip("needs libvirtd")
	}
	conn, err := hypervisor.Connect("qemu:///system")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for what, want := range map[string]string{
		"":                    "",
		"machine=pc-q35-99.9": "no machine type pc-q35-99.9",
		"arch=sparc64":        "architecture sparc64",
		"emulator=/none":      "emulator /none",
		"<cpu mode='custom'><model>qemu64</model></cpu>":                          "",
		"<cpu mode='custom'><model>Never-Existed</model></cpu>":                   "no processor model Never-Existed",
		"[<interface type='network'><source network='vbtest-none'/></interface>]": "network vbtest-none does not exist",
		"[<disk type='volume'><source pool='vbtest-none' volume='v'/></disk>]":    "pool vbtest-none does not exist",
		"[<interface type='bridge'><source bridge='vbtestnone'/></interface>]":    "bridge vbtestnone does not exist",
		"[<graphics type='vnc'/>]":                                                "",
	} {
		found, err := Of(domainWith(what), conn, Options{})
		got := found.Lacks
		if err != nil || (want == "") != (len(got) == 0) || want != "" && !strings.Contains(got[0].What, want) {
			t.Errorf("%s: got %q, %v, want %q", what, got, err, want)
		}
	}
}
