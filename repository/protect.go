package repository

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
)

// ProtectedName is the file, beside a domain's points, that lists those that must not be
// removed. It has the digest of itself: while it is damaged nothing is removed.
const ProtectedName = "protected.json"

// protectedTemporary is replaced under the domain's lock, so one name is enough.
const protectedTemporary = ".protected.json"

// Protection keeps a point from being removed, by whatever command.
type Protection struct {
	Point    string    `json:"point"`
	Identity string    `json:"identity,omitempty"`
	Since    time.Time `json:"since"`          // when it was protected, UTC
	Until    time.Time `json:"until,omitzero"` // UTC; zero: for ever
	Note     string    `json:"note,omitempty"` // for people
}

// Holds tells whether the point is protected still.
func (p Protection) Holds(now time.Time) bool { return p.Until.IsZero() || !now.After(p.Until) }

// String says for how long, and the note.
func (p Protection) String() string {
	s := "protected"
	if !p.Until.IsZero() {
		s += " until " + manifest.EndText(p.Until)
	}
	if p.Note != "" {
		s += ": " + p.Note
	}
	return s
}

// protectedFile is the content of protected.json.
type protectedFile struct {
	Format int          `json:"format"`
	Domain string       `json:"domain"` // a copy of the file says nothing of another one
	Points []Protection `json:"points"`
}

// Protections lists the points of a domain that are or were protected, by their ids. Damage
// is a *damage.Error.
func (r *Repository) Protections(domain string) (map[string]Protection, error) {
	f, err := r.readProtected(domain)
	all := map[string]Protection{}
	for _, p := range f.Points {
		all[p.Point] = p
	}
	return all, err
}

func (r *Repository) readProtected(domain string) (f protectedFile, err error) {
	if err := manifest.ValidDomain(domain); err != nil {
		return f, err
	}
	data, err := localfile.ReadSmall(filepath.Join(r.domainDir(domain), ProtectedName))
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err == nil {
		f, err = parseProtected(data, domain)
	}
	if err == nil || errors.Is(err, manifest.ErrNewerFormat) || localfile.CannotCheck(err) {
		return f, err
	}
	return protectedFile{}, fail.WithHint(&damage.Error{Points: []damage.Point{{Domain: domain, File: ProtectedName,
		Err: fmt.Errorf("%s of domain %s, which says what must not be removed: %w", ProtectedName, domain, err)}}},
		"nothing is removed while it is damaged: move it away, and protect the points again")
}

// parseProtected reads the content of the protected.json of a domain strictly.
func parseProtected(data []byte, domain string) (f protectedFile, err error) {
	if err := digest.ParseJSON(data, &f); err != nil {
		return protectedFile{}, err
	}
	if err := manifest.CheckFormat(f.Format); err != nil {
		return protectedFile{}, err
	}
	if f.Domain != domain {
		return protectedFile{}, fmt.Errorf("is that of domain %q: put here by hand", f.Domain)
	}
	seen := map[string]bool{}
	for _, p := range f.Points {
		if _, _, err := manifest.ParsePointID(p.Point); err != nil {
			return protectedFile{}, err
		}
		if seen[p.Point] {
			return protectedFile{}, fmt.Errorf("%s is there twice", p.Point)
		}
		seen[p.Point] = true
	}
	return f, nil
}

// Protected are those of the protections that hold (see [Lineage.NotAfterNewest]).
func (l *Lineage) Protected(all map[string]Protection, now time.Time) map[string]Protection {
	holding := maps.Clone(all)
	maps.DeleteFunc(holding, func(_ string, p Protection) bool { return !p.Holds(l.NotAfterNewest(now)) })
	return holding
}

// Protect keeps a listed point from being removed until a time, or for ever if that is zero.
// Protecting it again replaces what was said before.
func (l *Lock) Protect(id string, until time.Time, note string) (Protection, error) {
	m, err := l.lockedPoint(id)
	if err != nil {
		return Protection{}, err
	}
	p := Protection{Point: id, Identity: m.Identity, Since: time.Now().UTC(), Until: until.UTC(), Note: note}
	if until.IsZero() {
		p.Until = time.Time{}
	}
	return p, l.changeProtected(func(points []Protection) []Protection { return append(without(points, id), p) })
}

// Unprotect takes a protection back. The error is fail.NotFound where there is none.
func (l *Lock) Unprotect(id string) error {
	all, err := l.repo.Protections(l.domain)
	if err != nil {
		return err
	}
	if _, ok := all[id]; !ok {
		return fail.Errorf(fail.NotFound, "virtbackup list "+manifest.ShellWord(l.domain)+" shows the points that are", "point %s of domain %s is not protected", id, l.domain)
	}
	return l.changeProtected(func(points []Protection) []Protection { return without(points, id) })
}

func without(points []Protection, id string) []Protection {
	return slices.DeleteFunc(points, func(p Protection) bool { return p.Point == id })
}

// changeProtected replaces protected.json by a changed one, on stable storage. Points that
// are gone are forgotten.
func (l *Lock) changeProtected(change func([]Protection) []Protection) error {
	err := l.check()
	if err != nil {
		return err
	}
	f, err := l.repo.readProtected(l.domain)
	if err != nil {
		return err
	}
	ids, err := l.repo.pointIDs(l.domain)
	if err != nil {
		return err
	}
	f.Points = slices.DeleteFunc(change(f.Points), func(p Protection) bool { return !slices.Contains(ids, p.Point) })
	slices.SortFunc(f.Points, func(a, b Protection) int {
		return cmp.Or(cmp.Compare(manifest.NextNumber(a.Point), manifest.NextNumber(b.Point)), strings.Compare(a.Point, b.Point))
	})
	f.Format, f.Domain = manifest.Format, l.domain
	if f.Points == nil {
		f.Points = []Protection{}
	}
	data, err := digest.EncodeJSON(f)
	if err != nil {
		return err
	}
	err = fault.Around("protect", func() error {
		return localfile.Replace(filepath.Join(l.dir(), protectedTemporary), filepath.Join(l.dir(), ProtectedName), data)
	})
	if err != nil {
		return fmt.Errorf("protect points of domain %s: %w", l.domain, err)
	}
	return nil
}

// ProtectedError says that a point is not removed because it is protected or pinned.
type ProtectedError struct {
	Domain, ID string
	By         string // what protects it, for people
	hint       string
}

// Error says what protects it.
func (e *ProtectedError) Error() string {
	return fmt.Sprintf("point %s of domain %s is not removed: it is %s", e.ID, e.Domain, e.By)
}

// Kind is fail.Usage.
func (e *ProtectedError) Kind() fail.Kind { return fail.Usage }

// Hint says how it could be removed.
func (e *ProtectedError) Hint() string { return e.hint }

// CheckRemovable returns a *ProtectedError where one of these points of a domain is
// protected, or pinned, at an instant (see [Lineage.NotAfterNewest]).
func (r *Repository) CheckRemovable(domain string, ids []string, now time.Time) error {
	protected, err := r.Protections(domain)
	if err != nil {
		return err
	}
	pinned, err := r.Pinned(domain)
	if err != nil {
		return err
	}
	l, err := r.Lineage(domain)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if p, ok := protected[id]; ok && p.Holds(l.NotAfterNewest(now)) {
			by := p.String()
			if !p.Holds(now) {
				by += ", and no point is newer than that yet"
			}
			return &ProtectedError{domain, id, by, fmt.Sprintf("virtbackup unprotect %s@%s, if it may go", manifest.ShellWord(domain), id)}
		}
		if by := pinned(id); by != "" {
			return pinnedError(domain, id, by)
		}
	}
	return nil
}

func pinnedError(domain, id, by string) error {
	return &ProtectedError{domain, id, by, "it can be removed when what uses it has ended"}
}
