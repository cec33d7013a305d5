package xml

import (
	"reflect"
	"testing"
)

func TestParseBoot(t *testing.T) {
	tests := map[string]struct {
		os, devices string
		want        Boot
	}{
		"BIOS": {"<type>hvm</type><boot dev='hd'/>", "", Boot{}},
		"UEFI": {"<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader><nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'>/nvram/vm1_VARS.fd</nvram>", "",
			Boot{Loader: &BootFile{"/usr/share/OVMF/OVMF_CODE_4M.fd", "file", "raw"}, NVRAM: &BootFile{"/nvram/vm1_VARS.fd", "file", "raw"}}},
		"qcow2": {"<loader readonly='yes' type='pflash' format='qcow2'>/code.qcow2</loader><nvram template='/vars.qcow2' templateFormat='qcow2' format='qcow2'>/nvram/vm1.qcow2</nvram>", "",
			Boot{Loader: &BootFile{"/code.qcow2", "file", "qcow2"}, NVRAM: &BootFile{"/nvram/vm1.qcow2", "file", "qcow2"}}},
		"a block device":      {"<nvram type='block'>\n <source dev='/dev/vg/vars'/>\n</nvram>", "", Boot{NVRAM: &BootFile{"/dev/vg/vars", "block", "raw"}}},
		"a file as a source":  {"<nvram type='file'><source file='/vars.fd'/></nvram>", "", Boot{NVRAM: &BootFile{"/vars.fd", "file", "raw"}}},
		"a network":           {"<nvram type='network'><source protocol='iscsi' name='iqn.x/0'><host name='h'/></source></nvram>", "", Boot{NVRAM: &BootFile{"iscsi:iqn.x/0", "network", "raw"}}},
		"writable flash":      {"<loader readonly='no' type='pflash'>/own.fd</loader>", "", Boot{Loader: &BootFile{"/own.fd", "file", "raw"}, LoaderWritable: true}},
		"a template alone":    {"<nvram template='/vars.fd'/>", "", Boot{NVRAM: &BootFile{Format: "raw"}}},
		"a varstore":          {"<varstore template='/vars.json' path='/vm1.json'/>", "", Boot{VarStore: "/vm1.json"}},
		"a kernel":            {"<kernel>/boot/vmlinuz</kernel><initrd>\n/boot/initrd\n</initrd><cmdline>quiet</cmdline><dtb>/boot/x.dtb</dtb>", "", Boot{Kernel: "/boot/vmlinuz", Initrd: "/boot/initrd", DTB: "/boot/x.dtb"}},
		"a shim and a table":  {"<shim>/shim.efi</shim><acpi><table type='slic'>/slic.bin</table></acpi>", "", Boot{Shim: "/shim.efi", ACPITables: []string{"/slic.bin"}}},
		"a TPM":               {"", "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>", Boot{TPM: &TPM{Version: "2.0"}}},
		"an encrypted TPM":    {"", "<tpm><backend type='emulator' version='1.2'><encryption secret='6dd3e4a5-1d76-44ce-961f-f119f5aad935'/></backend></tpm>", Boot{TPM: &TPM{Version: "1.2", Secret: "6dd3e4a5-1d76-44ce-961f-f119f5aad935"}}},
		"a TPM elsewhere":     {"", "<tpm><backend type='emulator' version='2.0'><source type='dir' path='/tpm/vm1'/></backend></tpm>", Boot{TPM: &TPM{Version: "2.0", SourceType: "dir", Source: "/tpm/vm1"}}},
		"a TPM in a file":     {"", "<tpm><backend type='emulator' version='2.0'><source type='file' path='/tpm/vm1'/></backend></tpm>", Boot{TPM: &TPM{Version: "2.0", SourceType: "file", Source: "/tpm/vm1"}}},
		"a TPM of the host":   {"", "<tpm><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>", Boot{}},
		"a device of the day": {"", "<tpm><backend type='quantum'/></tpm><gizmo/>", Boot{}},
	}
	for name, tt := range tests {
		got, err := ParseBoot("<domain><os>" + tt.os + "</os><devices>" + tt.devices + "</devices></domain>")
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, err, tt.want)
		}
	}
	if got, err := ParseBoot("<domain><os firmware='efi'/></domain>"); err != nil || !got.AutoFirmware {
		t.Errorf("firmware='efi': got %+v, %v", got, err)
	}
	for _, doc := range []string{"", "<network/>", "<domain><os>"} {
		if _, err := ParseBoot(doc); err == nil {
			t.Errorf("%q was parsed", doc)
		}
	}
}

func FuzzParseBoot(f *testing.F) {
	f.Add("<domain><os firmware='efi'><loader>/a</loader><nvram format='qcow2'>/b</nvram></os><devices><tpm><backend type='emulator'/></tpm></devices></domain>")
	f.Fuzz(func(t *testing.T, doc string) {
		boot, err := ParseBoot(doc)
		if err == nil && boot.NVRAM != nil && (boot.NVRAM.Format == "" || (boot.NVRAM.Source == "") != (boot.NVRAM.SourceType == "")) {
			t.Errorf("incomplete NVRAM %+v", boot.NVRAM)
		}
	})
}
