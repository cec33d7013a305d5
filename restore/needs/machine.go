package needs

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/virtbackup/virtbackup/xml/edit"
)

// platform is what a domain is started with.
func (c *checker) platform() (emulator, arch, machine, virtType string) {
	kind := c.domain.Child("os/type")
	return c.domain.Child("devices/emulator").Text(), kind.Value("arch"), kind.Value("machine"), c.domain.Value("type")
}

// machine checks what the domain is started with, from the outside to the inside, and asks for
// its capabilities. It returns whether they are known: each thing that is missing hides the
// others.
func (c *checker) machine(capabilities *edit.Element) bool {
	emulator, arch, machine, virtType := c.platform()
	guest := guestOf(capabilities, arch)
	before := len(c.found.Lacks)
	c.file(emulator, "the emulator", "install QEMU for "+cmp.Or(arch, "the domain's architecture")+" (Debian: qemu-system-"+packageOf(arch)+"; Fedora and RHEL have it at another path, /usr/libexec/qemu-kvm or /usr/bin/qemu-system-"+arch+", which can be a symbolic link)")
	switch {
	case arch != "" && guest == nil:
		c.lack("install QEMU for it (Debian: qemu-system-"+packageOf(arch)+"), and restart libvirtd", "no emulator here runs guests of the architecture %s", arch)
	case virtType == "kvm" && guest != nil && !hasType(guest, "kvm"):
		c.lack("enable virtualisation in the firmware of the host, or nested virtualisation in its hypervisor; ls -l /dev/kvm", "KVM is not available on this host, and the domain is of type kvm")
	case machine != "" && guest != nil && len(c.found.Lacks) == before:
		c.machineType(guest, machine)
	}
	if len(c.found.Lacks) > before {
		return false
	}
	doc, err := c.host.DomainCapabilities(emulator, arch, machine, virtType)
	if err != nil {
		c.lack("", "%v", err)
		return false
	}
	support, err := edit.Parse(doc)
	if err != nil {
		c.lack("", "capabilities of a domain: %v", err)
		return false
	}
	c.support = support.Root()
	return true
}

// packageOf is the end of the name of Debian's package for an architecture.
func packageOf(arch string) string {
	switch {
	case arch == "x86_64" || arch == "i686":
		return "x86"
	case arch == "aarch64" || strings.HasPrefix(arch, "arm"):
		return "arm"
	}
	return "misc"
}

// guestOf finds the guests of an architecture, nil if none is run here.
func guestOf(capabilities *edit.Element, arch string) *edit.Element {
	for _, a := range capabilities.Children("guest/arch") {
		if a.Value("name") == arch {
			return a
		}
	}
	return nil
}

func hasType(guest *edit.Element, virtType string) bool {
	return slices.ContainsFunc(guest.Children("domain"), func(d *edit.Element) bool { return d.Value("type") == virtType })
}

// machineType demands a machine type, and names the newest of its family if it is missing.
// Each <domain> may have machines of its own.
func (c *checker) machineType(guest *edit.Element, machine string) {
	family := machine
	if at := strings.LastIndexByte(machine, '-'); at > 0 {
		family = machine[:at+1]
	}
	var related []string
	for _, m := range append(guest.Children("machine"), guest.Children("domain/machine")...) {
		name := m.Text()
		if name == machine {
			return
		}
		if strings.HasPrefix(name, family) {
			related = append(related, name)
		}
	}
	if len(related) == 0 && len(guest.Children("machine")) == 0 {
		return // libvirt lists none
	}
	hint := "a QEMU that has it, of the version in its name"
	if len(related) > 0 {
		slices.SortFunc(related, compareVersions)
		hint += fmt.Sprintf("; this one has %s, with which most guests start, too", related[len(related)-1])
	}
	c.lack(hint, "the QEMU of this host has no machine type %s", machine)
}

// compareVersions orders pc-q35-9.2 before pc-q35-10.0.
func compareVersions(a, b string) int {
	version := func(name string) (v [2]int) {
		_, _ = fmt.Sscanf(name[strings.LastIndexByte(name, '-')+1:], "%d.%d", &v[0], &v[1]) // 0 if it is none
		return v
	}
	x, y := version(a), version(b)
	return cmp.Or(cmp.Compare(x[0], y[0]), cmp.Compare(x[1], y[1]), cmp.Compare(a, b))
}

// supports says whether an enumeration of the capabilities has a value. What libvirt does not
// list is unknown, and assumed.
func (c *checker) supports(path, enum, value string) bool {
	for _, e := range c.support.Children(path + "/enum") {
		if e.Value("name") == enum {
			return slices.ContainsFunc(e.Children("value"), func(v *edit.Element) bool { return v.Text() == value })
		}
	}
	return true
}

// firmware checks what the domain boots from.
func (c *checker) firmware() {
	const ovmf = "install the firmware (Debian: ovmf, qemu-efi-aarch64; Fedora: edk2-ovmf, edk2-aarch64)"
	os := c.domain.Child("os")
	if kind := os.Value("firmware"); kind != "" && !c.supports("os", "firmware", kind) {
		c.lack(ovmf, "this host has no firmware of type %s for the domain", kind)
	}
	c.file(os.Child("loader").Text(), "the firmware", ovmf)
	nvram := os.Child("nvram")
	if path := nvram.Text(); path != "" && !c.exists(path) && !c.ours(path) {
		c.file(nvram.Value("template"), "the template of the firmware's variables", ovmf)
	}
	if secure := os.Child("loader").Value("secure"); secure != "" && !c.supports("os/loader", "secure", secure) {
		c.lack(ovmf, "this host has no firmware with secure='%s'", secure)
	}
}

// models checks devices that not every QEMU is built with.
func (c *checker) models() {
	for _, m := range []struct{ devices, attr, path, enum, hint string }{
		{"graphics", "type", "devices/graphics", "type", "Red Hat's QEMU from RHEL 9 on has no SPICE: vnc instead"},
		{"video/model", "type", "devices/video", "modelType", "virtio or vga instead"},
		{"tpm", "model", "devices/tpm", "model", ""},
		{"tpm/backend", "type", "devices/tpm", "backendModel", "install swtpm (Debian: swtpm swtpm-tools)"},
		{"filesystem/driver", "type", "devices/filesystem", "driverType", "install virtiofsd"},
	} {
		for _, e := range c.all(m.devices) {
			if value := e.Value(m.attr); value != "" && !c.supports(m.path, m.enum, value) {
				c.lack(m.hint, "%s of type %s is not supported here", strings.TrimSuffix(strings.TrimSuffix(m.devices, "/model"), "/driver"), value)
			}
		}
	}
	if tpm := c.support.Child("devices/tpm"); tpm.Value("supported") == "no" && len(c.all("tpm")) > 0 {
		c.lack("install swtpm (Debian: swtpm swtpm-tools)", "an emulated TPM is not supported here")
	}
	if security := c.domain.Child("launchSecurity").Value("type"); security == "sev" || security == "sev-snp" {
		if c.support.Child("features/sev").Value("supported") == "no" {
			c.lack("a host with an AMD processor that has SEV, and it is enabled in its firmware", "this host has no launch security of type %s", security)
		}
	}
}
