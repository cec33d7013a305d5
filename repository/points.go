package repository

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
)

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

// Points returns the sealed points of a domain, oldest first, none where the
// domain has no directory. Where directories cannot be read as points the error
// is a *DamagedError and the sound points are returned all the same.
//
// The order is that of the numbers, not of the clock: numbers only grow, under
// the lock, and so a parent always stands before its children, whatever the
// host's clock did.
func (r *Repository) Points(domain string) ([]manifest.Manifest, error) {
	ids, err := r.pointIDs(domain)
	if err != nil {
		return nil, err
	}
	var points []manifest.Manifest
	damaged := &DamagedError{}
	for _, id := range ids {
		m, err := r.readManifest(domain, id)
		if err != nil {
			damaged.Points = append(damaged.Points, DamagedPoint{Domain: domain, ID: id, Err: err})
			continue
		}
		points = append(points, m)
	}
	slices.SortFunc(points, manifest.CompareAge)
	if len(damaged.Points) > 0 {
		return points, damaged
	}
	return points, nil
}

// pointIDs lists what should be the points of a domain, in no order; none where the
// domain has no directory.
func (r *Repository) pointIDs(domain string) ([]string, error) {
	if err := manifest.ValidDomain(domain); err != nil {
		return nil, err
	}
	info, err := os.Lstat(r.domainDir(domain))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && !info.IsDir() { // a symbolic link may lead outside
		return nil, &DamagedError{Points: []DamagedPoint{{Domain: domain, Err: fmt.Errorf("%s is not a directory", r.domainDir(domain))}}}
	}
	entries, err := os.ReadDir(r.domainDir(domain))
	if err != nil {
		return nil, fmt.Errorf("list points: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if looksLikePoint(e) {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// looksLikePoint: every visible directory should be a point, and whatever has a
// point's name should be a directory. Dot names are runs under way, or somebody
// else's.
func looksLikePoint(e fs.DirEntry) bool {
	if strings.HasPrefix(e.Name(), ".") || e.Name() == manifest.LostFound {
		return false
	}
	_, _, err := manifest.ParsePointID(e.Name())
	return e.IsDir() || err == nil
}

// Point returns the manifest of one sealed point. The error is ErrNoPoint where
// there is no such directory, a *DamagedError where it cannot be read as one.
func (r *Repository) Point(domain, id string) (manifest.Manifest, error) {
	if err := manifest.ValidDomain(domain); err != nil {
		return manifest.Manifest{}, err
	}
	if _, _, err := manifest.ParsePointID(id); err != nil {
		return manifest.Manifest{}, fmt.Errorf("%w: %w", manifest.ErrNoPoint, err)
	}
	if _, err := os.Lstat(r.PointDir(domain, id)); errors.Is(err, fs.ErrNotExist) {
		return manifest.Manifest{}, fmt.Errorf("%w: %s of domain %s", manifest.ErrNoPoint, id, domain)
	}
	m, err := r.readManifest(domain, id)
	if err != nil {
		return manifest.Manifest{}, damagedPoint(domain, id, err)
	}
	return m, nil
}

// damagedPoint is the error for a point that cannot be read as one. err itself is
// returned where it says nothing of the point.
func damagedPoint(domain, id string, err error) error {
	if localfile.CannotCheck(err) {
		return err
	}
	return &DamagedError{Points: []DamagedPoint{{Domain: domain, ID: id, Err: err}}}
}

// readManifest reads the manifest of a directory and holds it against its
// place.
func (r *Repository) readManifest(domain, id string) (manifest.Manifest, error) {
	if _, _, err := manifest.ParsePointID(id); err != nil {
		return manifest.Manifest{}, err
	}
	dir := r.PointDir(domain, id)
	for _, dir := range []string{r.domainDir(domain), dir} {
		info, err := os.Lstat(dir)
		if err != nil {
			return manifest.Manifest{}, err
		}
		if !info.IsDir() { // a symbolic link may lead outside
			return manifest.Manifest{}, fmt.Errorf("%s is not a directory", dir)
		}
	}
	data, err := localfile.ReadSmall(filepath.Join(dir, manifest.FileName))
	if err != nil {
		return manifest.Manifest{}, err
	}
	m, err := manifest.Parse(data)
	if err != nil {
		return manifest.Manifest{}, fmt.Errorf("%s: %w", manifest.FileName, err)
	}
	if m.ID != id || m.Domain != domain {
		return manifest.Manifest{}, fmt.Errorf("%s: is that of %s of domain %s: moved or renamed by hand", manifest.FileName, m.ID, m.Domain)
	}
	return m, nil
}

// Hint says how to keep the two apart.
func (e *OtherDomainError) Hint() string {
	return "use another repository for this domain (--repo), or rename one of the two; the points of the other one are kept"
}
