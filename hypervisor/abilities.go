package hypervisor

import (
	"libvirt.org/go/libvirt"
)

// Capabilities returns what libvirt knows about the host and the guests that it can run: <capabilities>
// (virConnectGetCapabilities).
func (c *Conn) Capabilities() (doc string, err error) {
	err = c.withRetry(func(conn *libvirt.Connect) error {
		doc, err = conn.GetCapabilities()
		return err
	})
	return doc, about(err, "ask libvirt for the host's capabilities")
}

// DomainCapabilities returns what a domain can have: <domainCapabilities> (virConnectGetDomainCapabilities). virtType is
// "kvm" or "qemu"; "" for any other argument is libvirt's default. The error says what the host lacks.
func (c *Conn) DomainCapabilities(emulator, arch, machine, virtType string) (doc string, err error) {
	err = c.withRetry(func(conn *libvirt.Connect) error {
		doc, err = conn.GetDomainCapabilities(emulator, arch, machine, virtType, 0)
		return err
	})
	return doc, about(err, "ask libvirt what a domain of type %s can have (machine %s)", virtType, machine)
}

// TryStart has libvirt make the command line that it would start a domain with, without starting or preparing anything
// (virConnectDomainXMLToNative). Its images need not be there. The error is why libvirt would not start it: ErrUnsupported if
// it would not even define it. It may be about something that a real start prepares first.
func (c *Conn) TryStart(doc string) error {
	err := c.withRetry(func(conn *libvirt.Connect) error {
		_, err := conn.DomainXMLToNative("qemu-argv", doc, 0)
		return err
	})
	for _, code := range []libvirt.ErrorNumber{libvirt.ERR_CONFIG_UNSUPPORTED, libvirt.ERR_XML_ERROR, libvirt.ERR_XML_DETAIL} {
		if hasCode(err, code) {
			err = withKind(err, ErrUnsupported)
		}
	}
	return err
}

// CompareCPU says whether the host can run a guest with the processor of a <cpu> element under KVM
// (virConnectCompareHypervisorCPU). Where it cannot, missing is what libvirt says that it lacks, "" where it does not say.
func (c *Conn) CompareCPU(emulator, arch, machine, cpu string) (runs bool, missing string, err error) {
	var result libvirt.CPUCompareResult
	err = c.withRetry(func(conn *libvirt.Connect) error {
		result, err = conn.CompareHypervisorCPU(emulator, arch, machine, "kvm", cpu, libvirt.CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE)
		return err
	})
	if hasCode(err, libvirt.ERR_CPU_INCOMPATIBLE) {
		return false, err.Error(), nil
	}
	return result == libvirt.CPU_COMPARE_IDENTICAL || result == libvirt.CPU_COMPARE_SUPERSET, "", about(err, "compare the domain's processor with the host's")
}

// Presence is whether the host has something, and whether it is in use.
type Presence int

// The presences.
const (
	Absent   Presence = iota
	Inactive          // defined, and not started
	Active
)

// presence turns what a lookup has found into a Presence. libvirt says with a code of its own that there is none.
func presence(err error, absent libvirt.ErrorNumber, isActive func() (bool, error)) (Presence, error) {
	if hasCode(translate(err), absent) {
		return Absent, nil
	}
	if err != nil {
		return Absent, err
	}
	active, err := isActive()
	if err != nil || !active {
		return Inactive, err
	}
	return Active, nil
}

// Network says whether there is a virtual network of that name (virNetworkLookupByName).
func (c *Conn) Network(name string) (found Presence, err error) {
	err = c.withRetry(func(conn *libvirt.Connect) error {
		network, err := conn.LookupNetworkByName(name)
		if err == nil {
			defer func() { _ = network.Free() }()
		}
		found, err = presence(err, libvirt.ERR_NO_NETWORK, func() (bool, error) { return network.IsActive() })
		return err
	})
	return found, about(err, "look up the network %s", name)
}

// Volume says whether there is a storage pool of that name, and in it a volume (virStoragePoolLookupByName,
// virStorageVolLookupByName). The volumes of a pool that is not active are unknown: false.
func (c *Conn) Volume(pool, name string) (found Presence, volume bool, err error) {
	err = c.withRetry(func(conn *libvirt.Connect) error {
		volume = false
		p, err := conn.LookupStoragePoolByName(pool)
		if err == nil {
			defer func() { _ = p.Free() }()
		}
		found, err = presence(err, libvirt.ERR_NO_STORAGE_POOL, func() (bool, error) { return p.IsActive() })
		if err != nil || found != Active {
			return err
		}
		v, err := p.LookupStorageVolByName(name)
		if hasCode(translate(err), libvirt.ERR_NO_STORAGE_VOL) {
			return nil
		}
		if err == nil {
			volume = true
			_ = v.Free()
		}
		return err
	})
	return found, volume, about(err, "look up the volume %s of the pool %s", name, pool)
}
