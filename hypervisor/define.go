package hypervisor

import (
	"errors"

	"libvirt.org/go/libvirt"
)

// Define makes a persistent domain from its XML (virDomainDefineXMLFlags). A domain of the same name and UUID gets a new
// definition. With validate, libvirt compares the XML with its schema first; XML that does not conform is ErrSchema.
func (c *Conn) Define(doc string, validate bool) (*Domain, error) {
	var flags libvirt.DomainDefineFlags
	if validate {
		flags = libvirt.DOMAIN_DEFINE_VALIDATE
	}
	d := &Domain{conn: c}
	err := c.withRetry(func(conn *libvirt.Connect) error { // defined twice, it is the same domain
		dom, err := conn.DomainDefineXMLFlags(doc, flags)
		if err != nil {
			return err
		}
		defer func() { _ = dom.Free() }()
		if d.name, err = dom.GetName(); err != nil {
			return err
		}
		d.uuid, err = dom.GetUUIDString()
		return err
	})
	if hasCode(err, libvirt.ERR_XML_INVALID_SCHEMA) {
		err = withKind(err, ErrSchema)
	}
	if err != nil {
		return nil, about(err, "define the domain")
	}
	return d, nil
}

// Undefine removes the definition of a domain that is shut off, with libvirt's metadata of its checkpoints and snapshots, and
// a managed save (virDomainUndefineFlags). Its disks, its UEFI variables and the state of its TPM stay. A domain that is not
// defined is no error.
func (d *Domain) Undefine() error {
	const flags = libvirt.DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.DOMAIN_UNDEFINE_SNAPSHOTS_METADATA |
		libvirt.DOMAIN_UNDEFINE_CHECKPOINTS_METADATA | libvirt.DOMAIN_UNDEFINE_KEEP_NVRAM
	undefine := func(flags libvirt.DomainUndefineFlagsValues) error {
		return d.with(func(dom *libvirt.Domain) error { return dom.UndefineFlags(flags) })
	}
	err := undefine(flags | libvirt.DOMAIN_UNDEFINE_KEEP_TPM)
	if hasCode(err, libvirt.ERR_INVALID_ARG) { // before 8.9, which keeps it always
		err = undefine(flags)
	}
	if errors.Is(err, ErrNoDomain) {
		return nil
	}
	return about(err, "undefine domain %s", d.name)
}
