package needs

import (
	"slices"

	"github.com/virtbackup/virtbackup/xml/edit"
)

const ofCPU = "a host with that processor or a newer one, or another <cpu> in the XML (host-model, or a model that virsh domcapabilities lists)"

// processor checks the domain's CPU. One that is emulated (type qemu) has what QEMU can
// emulate, whatever the host's has.
func (c *checker) processor() {
	cpu := c.domain.Child("cpu")
	if cpu == nil {
		return
	}
	mode := cpu.Value("mode")
	if mode == "" && cpu.Child("model") != nil {
		mode = "custom"
	}
	offered := c.mode(mode)
	if offered == nil {
		return // no mode, or one that libvirt does not list
	}
	if offered.Value("supported") == "no" {
		c.lack(ofCPU, "the processor mode %s is not supported here", mode)
		return
	}
	if mode == "custom" {
		c.model(cpu, offered)
	}
}

// mode is what the capabilities say of a mode, nil if nothing.
func (c *checker) mode(name string) *edit.Element {
	for _, m := range c.support.Children("cpu/mode") {
		if m.Value("name") == name {
			return m
		}
	}
	return nil
}

// model checks a named processor: QEMU has to know it, and under KVM the host has to have its
// features, unless the domain asks for no check.
func (c *checker) model(cpu, offered *edit.Element) {
	name := cpu.Child("model").Text()
	if models := offered.Children("model"); len(models) > 0 && !slices.ContainsFunc(models, func(m *edit.Element) bool { return m.Text() == name }) {
		c.lack(ofCPU, "the QEMU of this host has no processor model %s", name)
		return
	}
	emulator, arch, machine, virtType := c.platform()
	if virtType != "kvm" || cpu.Value("check") == "none" {
		return
	}
	runs, missing, err := c.host.CompareCPU(emulator, arch, machine, cpu.String())
	switch {
	case err != nil || runs: // not every architecture can be compared
	case missing != "":
		c.lack(ofCPU, "the processor of this host is not a %s: %s", name, missing)
	default:
		c.lack(ofCPU, "the processor of this host is not a %s", name)
	}
}
