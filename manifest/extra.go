package manifest

import (
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ExtraKind is what a file that is not a disk is to the domain.
type ExtraKind string

// The kinds. A later version may add others; a reader leaves those alone.
const (
	ExtraNVRAM  ExtraKind = "nvram"  // UEFI variables, <nvram> or <varstore>
	ExtraLoader ExtraKind = "loader" // firmware, <loader>, if no package has it
	ExtraKernel ExtraKind = "kernel" // <kernel>
	ExtraInitrd ExtraKind = "initrd" // <initrd>
	ExtraDTB    ExtraKind = "dtb"    // device tree, <dtb>
	ExtraShim   ExtraKind = "shim"   // <shim>
	ExtraACPI   ExtraKind = "acpi"   // <acpi><table>
	ExtraTPM    ExtraKind = "tpm"    // state of swtpm: its directory as a tar archive, or a file
)

// Extra is a file of the point that is neither a disk nor a document: something else that
// the domain needs to start. Its digest is in Manifest.Files.
type Extra struct {
	Kind ExtraKind `json:"kind"`
	File string    `json:"file"` // name in the point's directory
	// Path is where it was on the host, as in the domain's XML: a file, a block device, or
	// the directory of swtpm. Empty if it had no path (a network disk).
	Path string `json:"path,omitempty"`
	// Format is how File is to be read: "raw" or "qcow2" for NVRAM and loader, as the
	// domain's XML says, "json" for a varstore, "tar" for a directory of swtpm, else empty.
	Format string `json:"format,omitempty"`
	Size   int64  `json:"size"`           // of File, bytes
	Mode   string `json:"mode,omitempty"` // permissions at Path, octal: "0644"
	UID    int    `json:"uid,omitempty"`  // owner at Path, by its number on that host
	GID    int    `json:"gid,omitempty"`
}

// Perm are the permissions at Path; 0600 if they are unknown. Bits for set-user-ID and the
// like are never among them.
func (e Extra) Perm() fs.FileMode {
	mode, err := strconv.ParseUint(e.Mode, 8, 9)
	if err != nil {
		return 0o600
	}
	return fs.FileMode(mode)
}

// ExtrasOf are the extras of a kind, in the manifest's order.
func (m Manifest) ExtrasOf(kind ExtraKind) []Extra {
	var found []Extra
	for _, e := range m.Extras {
		if e.Kind == kind {
			found = append(found, e)
		}
	}
	return found
}

// validateExtras checks that each extra is one of the files with a digest, which
// validateFiles has checked, and no other is the same file.
func (m Manifest) validateExtras() error {
	seen := map[string]bool{DomainXML: true, CheckpointXML: true}
	for _, e := range m.Extras {
		if err := e.Validate(); err != nil {
			return fmt.Errorf("extra %q: %w", e.File, err)
		}
		if seen[e.File] {
			return fmt.Errorf("extra %q: the file is named twice", e.File)
		}
		if m.Files[e.File] == "" {
			return fmt.Errorf("extra %q: the file has no digest", e.File)
		}
		seen[e.File] = true
	}
	return nil
}

// Validate says what is wrong with an extra, apart from its file: a manifest with it is not
// sealed.
func (e Extra) Validate() error {
	if err := ValidName(e.File); err != nil {
		return err
	}
	for _, word := range []string{string(e.Kind), e.Format} {
		if len(word) > 32 || strings.Trim(word, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return fmt.Errorf("bad word %q", word)
		}
	}
	switch {
	case e.Kind == "":
		return fmt.Errorf("no kind")
	case e.Size < 0 || e.UID < 0 || e.GID < 0:
		return fmt.Errorf("a number is negative")
	case e.Path != "" && !validHostPath(e.Path):
		return fmt.Errorf("path %q is not one of a host", e.Path)
	}
	if _, err := strconv.ParseUint(e.Mode, 8, 9); e.Mode != "" && err != nil {
		return fmt.Errorf("mode %q is not octal", e.Mode)
	}
	return nil
}

// validHostPath accepts what may be written into a domain's XML as a path.
func validHostPath(name string) bool {
	return len(name) < 4096 && path.IsAbs(name) &&
		utf8.ValidString(name) && !strings.ContainsFunc(name, unicode.IsControl)
}
