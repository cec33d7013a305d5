package damage

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/qcow2"
)

// Place is one place in the repository that is not as it was sealed.
type Place struct {
	Domain string `json:"domain,omitempty"`
	Point  string `json:"point,omitempty"`
	File   string `json:"file"` // path below the repository
	Offset int64  `json:"offset"`
	Length int64  `json:"length"` // bytes from Offset on; 0: no byte in particular
	What   string `json:"what"`

	// Disk is the target of the disk whose image or hash list it is. Guest are
	// the ranges of that disk, as the guest sees it, that lie there; WholeDisk
	// says that any of it may be affected.
	Disk      string        `json:"disk,omitempty"`
	Guest     []qcow2.Range `json:"guest,omitempty"`
	WholeDisk bool          `json:"whole_disk,omitempty"`

	// Harmless damage is in something that no restore needs: every byte that
	// one reads is proven to be as it was written.
	Harmless bool `json:"harmless,omitempty"`

	// Breaks are the points that cannot be restored whole any more, oldest first.
	Breaks []string `json:"breaks"`
}

// String is the file, the place in it and what is wrong there.
func (d Place) String() string {
	if d.Length == 0 {
		return fmt.Sprintf("%s: %s", d.File, d.What)
	}
	return fmt.Sprintf("%s: %d bytes at offset %d: %s", d.File, d.Length, d.Offset, d.What)
}

// Image tells which image is broken by it; ok is false where none is.
func (d Place) Image() (ref manifest.ImageRef, ok bool) {
	if d.Disk == "" || d.Harmless {
		return manifest.ImageRef{}, false
	}
	return manifest.ImageRef{Point: d.Point, Image: filepath.Base(d.File)}, true
}

// places are several of them as one error.
type places []Place

// maxNamed bounds a message; virtbackup verify names them all.
const maxNamed = 5

func (ds places) Error() string {
	var lines []string
	for i, d := range ds {
		if i == maxNamed {
			lines = append(lines, fmt.Sprintf("and %d more places", len(ds)-i))
			break
		}
		lines = append(lines, d.String()+d.guest())
	}
	return strings.Join(lines, "\n  ")
}

// guest says what of the disk lies there.
func (d Place) guest() string {
	switch {
	case d.Disk == "" || d.Harmless:
		return ""
	case d.WholeDisk:
		return fmt.Sprintf(" (any part of disk %s may be affected)", d.Disk)
	case len(d.Guest) == 0:
		return fmt.Sprintf(" (no data of disk %s lies there)", d.Disk)
	}
	var total int64
	for _, g := range d.Guest {
		total += g.Length
	}
	return fmt.Sprintf(" (%d bytes of disk %s, the first at its offset %d)", total, d.Disk, d.Guest[0].Offset)
}
