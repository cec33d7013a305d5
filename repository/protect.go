package repository

import (
	"fmt"
	"slices"
	"time"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/keep"
	"github.com/virtbackup/virtbackup/manifest"
)

// Protections lists the points of a domain that are or were protected, by their ids. Damage
// is a *damage.Error.
func (r *Repository) Protections(domain string) (map[string]keep.Protection, error) {
	if err := manifest.ValidDomain(domain); err != nil {
		return nil, err
	}
	return keep.Protections(r.domainDir(domain))
}

// Protect keeps a listed point from being removed until a time, or for ever if that is zero.
// Protecting it again replaces what was said before.
func (l *Lock) Protect(id string, until time.Time, note string) (keep.Protection, error) {
	m, err := l.lockedPoint(id)
	if err != nil {
		return keep.Protection{}, err
	}
	p := keep.Protection{Point: id, Identity: m.Identity, Since: time.Now().UTC(), Until: until.UTC(), Note: note}
	if until.IsZero() {
		p.Until = time.Time{}
	}
	return p, l.changeProtected(func(points []keep.Protection) []keep.Protection { return append(without(points, id), p) })
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
	return l.changeProtected(func(points []keep.Protection) []keep.Protection { return without(points, id) })
}

func without(points []keep.Protection, id string) []keep.Protection {
	return slices.DeleteFunc(points, func(p keep.Protection) bool { return p.Point == id })
}

// changeProtected replaces protected.json by a changed one. Points that are gone are
// forgotten.
func (l *Lock) changeProtected(change func([]keep.Protection) []keep.Protection) error {
	if err := l.check(); err != nil {
		return err
	}
	ids, err := l.repo.pointIDs(l.domain)
	if err != nil {
		return err
	}
	return keep.ChangeProtections(l.dir(), func(points []keep.Protection) []keep.Protection {
		return slices.DeleteFunc(change(points), func(p keep.Protection) bool { return !slices.Contains(ids, p.Point) })
	})
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
// protected, or pinned, at an instant (see [lineage.Lineage.NotAfterNewest]).
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
