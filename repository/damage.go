package repository

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/qcow2"
)

// Damage is one place in the repository that is not as it was sealed.
type Damage struct {
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
func (d Damage) String() string {
	if d.Length == 0 {
		return fmt.Sprintf("%s: %s", d.File, d.What)
	}
	return fmt.Sprintf("%s: %d bytes at offset %d: %s", d.File, d.Length, d.Offset, d.What)
}

// Image tells which image is broken by it; ok is false where none is.
func (d Damage) Image() (ref ImageRef, ok bool) {
	if d.Disk == "" || d.Harmless {
		return ImageRef{}, false
	}
	return ImageRef{d.Point, filepath.Base(d.File)}, true
}

// damages is several of them as one error.
type damages []Damage

// maxNamed bounds a message; virtbackup verify names them all.
const maxNamed = 5

func (ds damages) Error() string {
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
func (d Damage) guest() string {
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

// damagedFile is the error for a file that is not as it was sealed. err itself is
// returned where it says nothing of the file.
func damagedFile(m manifest.Manifest, name string, err error) error {
	if localfile.CannotCheck(err) {
		return err
	}
	return &DamagedError{Points: []DamagedPoint{{Domain: m.Domain, ID: m.ID, File: name, Err: err}}}
}

// DamagedBy is the error for damage that was found; nil for none, or only such
// as no restore needs to mind.
func DamagedBy(found []Damage) error {
	type place struct{ domain, point, file string }
	byPlace := map[place]damages{}
	var order []place
	for _, d := range found {
		if d.Harmless {
			continue
		}
		p := place{d.Domain, d.Point, filepath.Base(d.File)}
		if byPlace[p] == nil {
			order = append(order, p)
		}
		byPlace[p] = append(byPlace[p], d)
	}
	if len(order) == 0 {
		return nil
	}
	e := &DamagedError{}
	for _, p := range order {
		e.Points = append(e.Points, DamagedPoint{Domain: p.domain, ID: p.point, File: p.file, Err: byPlace[p]})
	}
	return e
}

// has tells whether a point is among the damaged ones.
func (e *DamagedError) has(id string) bool {
	return slices.ContainsFunc(e.Points, func(p DamagedPoint) bool { return p.ID == id })
}

// DamagedPoint is one directory that should be a point and cannot be read as
// one.
type DamagedPoint struct {
	Domain string
	ID     string // the directory's name; "" where it is above the points
	File   string // the file that is damaged; "" where the point as a whole is
	Err    error
}

// DamagedError lists what is damaged. Points returns it beside the points that
// are sound.
type DamagedError struct {
	Points []DamagedPoint

	// What follows from that, once [Repository.Explain] has found it out: the
	// points of the domain that cannot be restored whole any more, and those
	// that this damage leaves alone, oldest first.
	Lost, Left []string
}

// Error names every damaged point and what is wrong with it, and what follows
// from that.
func (e *DamagedError) Error() string {
	var lines []string
	for _, p := range e.Points {
		if p.ID == "" {
			lines = append(lines, fmt.Sprintf("the repository is damaged: %v", p.Err))
			continue
		}
		lines = append(lines, fmt.Sprintf("point %s of domain %s is damaged: %v", p.ID, p.Domain, p.Err))
	}
	if len(e.Lost) > 0 {
		lines = append(lines, "lost with it: "+strings.Join(e.Lost, " "))
	}
	if len(e.Left) > 0 {
		lines = append(lines, "not touched by it: "+strings.Join(e.Left, " "))
	}
	return strings.Join(lines, "\n")
}

// Kind is fail.Damaged.
func (e *DamagedError) Kind() fail.Kind { return fail.Damaged }

// Hint says what still restores, as far as that is known.
func (e *DamagedError) Hint() string {
	if len(e.Points) > 0 && e.Points[0].ID == "" {
		return "docs/format.md says what stands where; the id in repository.json is in every manifest.json, too"
	}
	if len(e.Lost) == 0 {
		return "virtbackup verify shows what is damaged, what is lost with it, and what still restores"
	}
	domain := manifest.ShellWord(e.Points[0].Domain)
	if len(e.Left) == 0 {
		return fmt.Sprintf("virtbackup verify %s shows which disks of these points still restore (restore --disk)", domain)
	}
	return fmt.Sprintf("virtbackup restore %s --at %s --to DIR; virtbackup verify %s checks all points", domain, e.Left[len(e.Left)-1], domain)
}

// NotNow is the first of the errors that says nothing of its point, nil if there is none:
// the point could not be read now, and may be sound.
func (e *DamagedError) NotNow() error {
	for _, p := range e.Points {
		if localfile.CannotCheck(p.Err) {
			return fmt.Errorf("read point %s of domain %s: %w", p.ID, p.Domain, p.Err)
		}
	}
	return nil
}

// Unwrap gives errors.Is and errors.As the causes.
func (e *DamagedError) Unwrap() []error {
	var errs []error
	for _, p := range e.Points {
		errs = append(errs, p.Err)
	}
	return errs
}

// damagedPoint is the error for a point that cannot be read as one. err itself is
// returned where it says nothing of the point.
func damagedPoint(domain, id string, err error) error {
	if localfile.CannotCheck(err) {
		return err
	}
	return &DamagedError{Points: []DamagedPoint{{Domain: domain, ID: id, Err: err}}}
}
