package damage

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
)

// OfFile is the error for a file that is not as it was sealed. err itself is
// returned where it says nothing of the file.
func OfFile(m manifest.Manifest, name string, err error) error {
	if localfile.CannotCheck(err) {
		return err
	}
	return &Error{Points: []Point{{Domain: m.Domain, ID: m.ID, File: name, Err: err}}}
}

// ErrorOf is the error for damage that was found; nil if there is none, or only harmless
// damage.
func ErrorOf(found []Place) error {
	type place struct{ domain, point, file string }
	byPlace := map[place]places{}
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
	e := &Error{}
	for _, p := range order {
		e.Points = append(e.Points, Point{Domain: p.domain, ID: p.point, File: p.file, Err: byPlace[p]})
	}
	return e
}

// Has tells whether a point is among the damaged ones.
func (e *Error) Has(id string) bool {
	return slices.ContainsFunc(e.Points, func(p Point) bool { return p.ID == id })
}

// Point is one directory that should be a point and cannot be read as
// one.
type Point struct {
	Domain string
	ID     string // the directory's name; "" where it is above the points
	File   string // the file that is damaged; "" where the point as a whole is
	Err    error
}

// Error lists what is damaged. Lineage.Err of package repository is one.
type Error struct {
	Points []Point

	// What follows from that, once [repository.Repository.Explain] has found it out: the
	// points of the domain that cannot be restored whole any more, and those
	// that this damage does not affect, oldest first.
	Lost, Left []string
}

// Error names every damaged point and what is wrong with it, and what follows
// from that.
func (e *Error) Error() string {
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
func (e *Error) Kind() fail.Kind { return fail.Damaged }

// Hint says what still restores, as far as that is known.
func (e *Error) Hint() string {
	if len(e.Points) > 0 && e.Points[0].ID == "" {
		return "docs/format.md describes the files; every manifest.json has the id of repository.json, too"
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
func (e *Error) NotNow() error {
	for _, p := range e.Points {
		if localfile.CannotCheck(p.Err) {
			return fmt.Errorf("read point %s of domain %s: %w", p.ID, p.Domain, p.Err)
		}
	}
	return nil
}

// Unwrap gives errors.Is and errors.As the causes.
func (e *Error) Unwrap() []error {
	var errs []error
	for _, p := range e.Points {
		errs = append(errs, p.Err)
	}
	return errs
}

// OfPoint is the error for a point that cannot be read as one. err itself is
// returned where it says nothing of the point.
func OfPoint(domain, id string, err error) error {
	if localfile.CannotCheck(err) {
		return err
	}
	return &Error{Points: []Point{{Domain: domain, ID: id, Err: err}}}
}
