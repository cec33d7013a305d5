// Package xml builds and reads the libvirt documents that a backup needs: <domain>, <domainbackup> and
// <domaincheckpoint>. It does no I/O, and builds without cgo.
//
// The formats are described at https://libvirt.org/formatdomain.html, formatbackup.html and formatcheckpoint.html; the
// comments cite those pages where a choice follows from them.
package xml

import (
	"fmt"
	"path/filepath"
	"unicode/utf8"
)

// checkText refuses what XML 1.0 cannot carry (section 2.2, production Char). encoding/xml would silently write U+FFFD in
// its place, and libvirt would then use a path or a name that nobody asked for.
func checkText(what, s string) error {
	if !utf8.ValidString(s) {
		return fmt.Errorf("%s %q is not valid UTF-8", what, s)
	}
	for _, r := range s {
		if r < 0x20 && r != '\t' && r != '\n' && r != '\r' || r == 0xFFFE || r == 0xFFFF {
			return fmt.Errorf("%s %q has a character that XML cannot carry", what, s)
		}
	}
	return nil
}

// checkPath is checkText for a path that QEMU is to open: it has to be absolute, as QEMU has another working directory.
func checkPath(what, path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%s %q is not an absolute path", what, path)
	}
	return checkText(what, path)
}

// checkTargets refuses empty and repeated disk targets. libvirt refuses them too, but only after the guest was frozen.
func checkTargets(targets []string) error {
	seen := make(map[string]bool, len(targets))
	for _, target := range targets {
		switch {
		case target == "":
			return fmt.Errorf("a disk without a target")
		case seen[target]:
			return fmt.Errorf("disk %s is listed twice", target)
		}
		seen[target] = true
		if err := checkText("target", target); err != nil {
			return err
		}
	}
	return nil
}
