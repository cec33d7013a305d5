package machine

import (
	"cmp"
	"fmt"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/xml/edit"
)

// os is what the domain starts with: its firmware, or a kernel.
func (m *maker) os() error {
	e := m.domain.Child("os")
	kind := e.Child("type")
	if kind.Text() != "hvm" {
		return fmt.Errorf("the domain's XML has <os> of type %q, not hvm", kind.Text())
	}
	attrs := ""
	if e.Value("firmware") == "efi" {
		attrs = attr("firmware", "efi")
	}
	m.open("os", attrs)
	m.take(kind, osType)
	m.take(e.Child("firmware"), firmwareFeatures)
	if err := m.loader(e.Child("loader")); err != nil {
		return err
	}
	m.variables(e)
	if err := m.kernel(e); err != nil {
		return err
	}
	for _, b := range e.Children("boot") {
		m.take(b, boot)
	}
	m.close("os")
	return nil
}

// loader is the firmware: the point's copy, or that of the host.
func (m *maker) loader(e *edit.Element) error {
	if e == nil || e.Text() == "" {
		return nil
	}
	path := m.Files[e.Text()]
	if path == "" && !packaged(e.Text()) {
		return notInPoint("the firmware", e.Text())
	}
	names := []string{"readonly", "secure", "type", "stateless", "format"}
	attrs := ""
	if path == "" && e.Value("type") == "pflash" { // all guests of the host start with that file
		if e.Value("readonly") == "no" {
			return fail.Errorf(fail.Other, "restore --define makes a domain of it", "the domain may write to its firmware %s, which is that of the host", e.Text())
		}
		names, attrs = names[1:], attr("readonly", "yes") // libvirt's default is no
	}
	for _, name := range names {
		if value, ok := e.Attr(name); ok && harmless.MatchString(value) {
			attrs += attr(name, value)
		}
	}
	m.element("loader", attrs, cmp.Or(path, e.Text()))
	return nil
}

// variables are those of UEFI, in a file of the drill's own.
func (m *maker) variables(e *edit.Element) {
	if store := e.Child("varstore"); store != nil {
		m.line("<varstore" + attr("path", cmp.Or(m.Files[store.Value("path")], m.NVRAM+".json")) + "/>")
		return
	}
	nvram, loader := e.Child("nvram"), e.Child("loader")
	flash := loader.Value("type") == "pflash" && loader.Value("readonly") != "no" && loader.Value("stateless") != "yes"
	if nvram == nil && !flash && (e.Value("firmware") != "efi" || loader != nil) {
		return
	}
	attrs := ""
	if template := nvram.Value("template"); packaged(template) {
		attrs += attr("template", template)
	}
	if _, ok := nvram.Attr("format"); ok || m.NVRAMFormat == "qcow2" {
		attrs += attr("format", cmp.Or(m.NVRAMFormat, "raw"))
	}
	m.element("nvram", attrs, m.NVRAM)
}

// kernel is one that QEMU boots itself, with what belongs to it.
func (m *maker) kernel(e *edit.Element) error {
	for _, name := range []string{"kernel", "initrd", "shim", "dtb"} {
		if err := m.file(name, e.Child(name)); err != nil {
			return err
		}
	}
	if line := e.Child("cmdline").Text(); line != "" && e.Child("kernel") != nil {
		m.element("cmdline", "", line)
	}
	tables := e.Children("acpi/table")
	if len(tables) == 0 {
		return nil
	}
	m.open("acpi", "")
	for _, table := range tables {
		path := m.Files[table.Text()]
		if path == "" {
			return notInPoint("an ACPI table", table.Text())
		}
		m.element("table", " type='slic'", path)
	}
	m.close("acpi")
	return nil
}

func (m *maker) file(name string, e *edit.Element) error {
	if e == nil || e.Text() == "" {
		return nil
	}
	path := m.Files[e.Text()]
	if path == "" {
		return notInPoint("<"+name+">", e.Text())
	}
	m.element(name, "", path)
	return nil
}

func notInPoint(what, path string) error {
	return fail.Errorf(fail.Other, "points that virtbackup 0.4.0 or later has made have it: drill one of these",
		"the domain starts with %s %s, which the point does not have", what, path)
}
