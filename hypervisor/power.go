package hypervisor

import "libvirt.org/go/libvirt"

// Start starts a domain that is shut off (virDomainCreate).
func (d *Domain) Start() error {
	err := d.once(func(dom *libvirt.Domain) error { return dom.Create() })
	return about(err, "start domain %s", d.name)
}

// ShutDown asks the guest to shut down (virDomainShutdown: by ACPI, or its agent where there is one), and does not wait for
// it. The error is ErrNotRunning where the domain is off.
func (d *Domain) ShutDown() error {
	err := d.with(func(dom *libvirt.Domain) error { return dom.Shutdown() })
	return about(d.orNotRunning(err), "shut down domain %s", d.name)
}

// ManagedSave tells whether libvirt has saved the memory of the domain and would go on from it at the next start
// (virDomainHasManagedSaveImage).
func (d *Domain) ManagedSave() (saved bool, err error) {
	err = d.with(func(dom *libvirt.Domain) error {
		saved, err = dom.HasManagedSaveImage(0)
		return err
	})
	return saved, about(err, "ask whether domain %s has a managed save", d.name)
}

// SavedXML returns the document of the domain as it will go on from its managed save, which is not that of its
// configuration if it was changed while it ran; "" if there is no managed save (virDomainManagedSaveGetXMLDesc).
func (d *Domain) SavedXML() (doc string, err error) {
	err = d.with(func(dom *libvirt.Domain) error {
		saved, err := dom.HasManagedSaveImage(0)
		if doc = ""; err != nil || !saved {
			return err
		}
		doc, err = dom.ManagedSaveGetXMLDesc(0)
		return err
	})
	return doc, about(err, "read the managed save of domain %s", d.name)
}

// RemoveManagedSave discards what ManagedSave tells of: the memory of the guest is lost (virDomainManagedSaveRemove). No
// error if there is none.
func (d *Domain) RemoveManagedSave() error {
	err := d.with(func(dom *libvirt.Domain) error { return dom.ManagedSaveRemove(0) })
	if err != nil {
		if saved, savedErr := d.ManagedSave(); savedErr == nil && !saved {
			return nil
		}
	}
	return about(err, "discard the managed save of domain %s", d.name)
}

// Autostart tells whether libvirt starts the domain with the host (virDomainGetAutostart).
func (d *Domain) Autostart() (on bool, err error) {
	err = d.with(func(dom *libvirt.Domain) error {
		on, err = dom.GetAutostart()
		return err
	})
	return on, about(err, "ask whether domain %s starts with the host", d.name)
}

// SetAutostart sets what Autostart tells (virDomainSetAutostart). A transient domain has no autostart.
func (d *Domain) SetAutostart(on bool) error {
	err := d.with(func(dom *libvirt.Domain) error { return dom.SetAutostart(on) })
	return about(err, "set the autostart of domain %s", d.name)
}

// DefinitionXML returns the domain as it will start next time, with what libvirt tells no reader, such as passwords of
// displays (virDomainGetXMLDesc with VIR_DOMAIN_XML_INACTIVE and VIR_DOMAIN_XML_SECURE): a domain that is defined again
// by InactiveXML loses these. It is not to be stored or printed.
func (d *Domain) DefinitionXML() (string, error) {
	return d.xml(libvirt.DOMAIN_XML_INACTIVE | libvirt.DOMAIN_XML_SECURE)
}
