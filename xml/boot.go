package xml

import (
	"encoding/xml"
	"fmt"
	"strings"

	"libvirt.org/go/libvirtxml"
)

// BootFile is a file that a domain starts with, other than its disks.
type BootFile struct {
	Source     string // as Disk.Source; "" if the document does not say
	SourceType string // as Disk.SourceType
	Format     string // "raw", "qcow2", …
}

// Boot is what a domain needs to start besides its disks.
type Boot struct {
	// AutoFirmware says that libvirt chooses the firmware (<os firmware='efi'>), and where it
	// keeps the variables, if the document does not say.
	AutoFirmware bool
	Loader       *BootFile // nil without <loader>
	// LoaderWritable says that the loader is writable flash: it has the variables in it.
	LoaderWritable bool
	NVRAM          *BootFile // UEFI variables; nil without <nvram>
	VarStore       string    // UEFI variables as JSON, for firmware without flash; "" without <varstore>
	// Kernel, Initrd, DTB, Shim and ACPITables are paths.
	Kernel, Initrd, DTB, Shim string
	ACPITables                []string
	TPM                       *TPM // nil unless its state is on this host: an emulated one
}

// TPM is an emulated TPM.
type TPM struct {
	Version string // "1.2", "2.0"
	// Source is where its state is; "" if the document does not say. SourceType is "file" or
	// "dir".
	Source, SourceType string
	// Secret is the UUID of the libvirt secret that encrypts the state; "" for none.
	Secret string
}

// bootDocument holds only what is read, like domainDocument.
type bootDocument struct {
	XMLName xml.Name `xml:"domain"`
	OS      struct {
		Firmware string                     `xml:"firmware,attr"`
		Loader   *libvirtxml.DomainLoader   `xml:"loader"`
		NVRAM    *libvirtxml.DomainNVRam    `xml:"nvram"`
		VarStore *libvirtxml.DomainVarStore `xml:"varstore"`
		Kernel   string                     `xml:"kernel"`
		Initrd   string                     `xml:"initrd"`
		DTB      string                     `xml:"dtb"`
		Shim     string                     `xml:"shim"`
		ACPI     libvirtxml.DomainACPI      `xml:"acpi"`
	} `xml:"os"`
	TPMs []libvirtxml.DomainTPM `xml:"devices>tpm"`
}

// ParseBoot reads from a <domain> document what the domain starts with.
func ParseBoot(doc string) (Boot, error) {
	var raw bootDocument
	if err := xml.Unmarshal([]byte(doc), &raw); err != nil {
		return Boot{}, fmt.Errorf("parse domain XML: %w", err)
	}
	boot := Boot{
		AutoFirmware: raw.OS.Firmware == "efi",
		Kernel:       strings.TrimSpace(raw.OS.Kernel), Initrd: strings.TrimSpace(raw.OS.Initrd),
		DTB: strings.TrimSpace(raw.OS.DTB), Shim: strings.TrimSpace(raw.OS.Shim),
	}
	if l := raw.OS.Loader; l != nil && strings.TrimSpace(l.Path) != "" {
		boot.Loader = &BootFile{Source: strings.TrimSpace(l.Path), SourceType: "file", Format: formatOr(l.Format)}
		boot.LoaderWritable = l.Type == "pflash" && l.Readonly == "no"
	}
	if n := raw.OS.NVRAM; n != nil {
		boot.NVRAM = newNVRAM(n)
	}
	if v := raw.OS.VarStore; v != nil {
		boot.VarStore = v.Path
	}
	for _, table := range raw.OS.ACPI.Tables {
		boot.ACPITables = append(boot.ACPITables, strings.TrimSpace(table.Path))
	}
	for _, t := range raw.TPMs { // libvirt allows one, and a proxy on s390x
		if t.Backend != nil && t.Backend.Emulator != nil {
			boot.TPM = newTPM(t.Backend.Emulator)
		}
	}
	return boot, nil
}

// formatOr is raw, as libvirt has it, where the document names no format.
func formatOr(format string) string {
	if format == "" {
		return "raw"
	}
	return format
}

// newNVRAM reads <nvram>: its text is a path, or it has a <source> like that of a disk.
func newNVRAM(n *libvirtxml.DomainNVRam) *BootFile {
	file := &BootFile{Format: formatOr(n.Format)}
	if n.Source != nil {
		file.SourceType, file.Source = sourceOf(n.Source)
	} else if path := strings.TrimSpace(n.NVRam); path != "" {
		file.SourceType, file.Source = "file", path
	}
	return file
}

func newTPM(e *libvirtxml.DomainTPMBackendEmulator) *TPM {
	tpm := &TPM{Version: e.Version}
	if e.Encryption != nil {
		tpm.Secret = e.Encryption.Secret
	}
	switch s := e.Source; {
	case s == nil:
	case s.File != nil:
		tpm.SourceType, tpm.Source = "file", s.File.Path
	case s.Dir != nil:
		tpm.SourceType, tpm.Source = "dir", s.Dir.Path
	}
	return tpm
}
