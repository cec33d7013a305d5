package prune

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/retention"
)

// state is what the repository says of a domain's points.
type state struct {
	*repository.Lineage
	protected map[string]repository.Protection
	verified  map[string]repository.Verification
	pinned    func(id string) (by string)
	gone      map[string]bool // in a dry run: what would be deleted by then

	// Of each point, whether the last verification of it, and of all that it needs, found every
	// byte as it was written, and nothing of them was replaced since; and whether one of them
	// was found damaged. There may be thousands of points in a chain, so this is found out once.
	sound, damaged map[string]bool
}

// children are the points that are chained onto a point directly, oldest first.
func (s state) children(id string) []string {
	return slices.DeleteFunc(s.Children(id), func(id string) bool { return s.gone[id] })
}

// checkDomain refuses a domain that has no points, before a lock makes a directory for it.
func (r *run) checkDomain() error {
	domains, err := r.repo.Domains()
	if err != nil {
		return err
	}
	if err := manifest.ValidDomain(r.domain); err != nil {
		return err
	}
	if !slices.Contains(domains, r.domain) {
		return fmt.Errorf("domain %s has no points in repository %s: %w", r.domain, r.repo.Dir(), manifest.ErrNoPoint)
	}
	return nil
}

// gather reads the state. Damage of any manifest, or of a file that says what must stay, is
// an error: what is known only in part is not removed.
func (r *run) gather() (state, error) {
	l, err := r.repo.Lineage(r.domain)
	if err != nil {
		return state{}, err
	}
	if err := r.damageOf(l); err != nil {
		return state{}, err
	}
	s := state{Lineage: l, verified: r.repo.VerifiedOf(l)}
	if s.protected, err = r.repo.Protections(r.domain); err != nil {
		return state{}, err
	}
	if s.pinned, err = r.repo.Pinned(r.domain); err != nil {
		return state{}, err
	}
	s.judge()
	return s, nil
}

// damageOf is a *damage.Error of what the manifests show; nil if they are sound.
func (r *run) damageOf(l *repository.Lineage) error {
	e := &damage.Error{Points: slices.Concat(l.Unreadable, l.BadRemovals)}
	broken := l.Broken()
	for _, m := range l.All() {
		for _, target := range broken[m.ID] {
			d, _ := m.Disk(target)
			if _, err := l.Parent(m, d); err != nil {
				e.Points = append(e.Points, damage.Point{Domain: r.domain, ID: m.ID, File: d.Image,
					Err: fmt.Errorf("disk %s needs %s: %w", target, d.Parent, err)})
			}
		}
	}
	if len(e.Points) == 0 {
		return nil
	}
	r.repo.Explain(e)
	if err := e.NotNow(); err != nil {
		return err
	}
	return e
}

// judge fills in what follows from the verifications.
func (s *state) judge() {
	s.sound, s.damaged = map[string]bool{}, map[string]bool{}
	for _, m := range s.All() { // parents stand before their children
		v, known := s.verified[m.ID]
		s.sound[m.ID], s.damaged[m.ID] = v.Sound, known && !v.Sound
		for _, d := range m.Disks {
			if parent, _ := s.Parent(m, d); parent.Point != "" {
				s.sound[m.ID] = s.sound[m.ID] && s.sound[parent.Point]
				s.damaged[m.ID] = s.damaged[m.ID] || s.damaged[parent.Point]
			}
		}
	}
}

// isProtected tells whether a point is protected now. A clock that went ahead lets no
// protection end: it ends when a point is newer, too.
func (s state) isProtected(m manifest.Manifest) (repository.Protection, bool) {
	now := time.Now()
	if newest := s.newest(); newest.Before(now) {
		now = newest
	}
	p, ok := s.protected[m.ID]
	return p, ok && p.Holds(now)
}

func (s state) newest() time.Time {
	if len(s.Points) == 0 {
		return time.Time{}
	}
	return s.Points[len(s.Points)-1].Time
}

// decide fills in the table, and returns the points to be removed, oldest first.
func (r *run) decide(s state, request Request) (remove []Point, err error) {
	var points []retention.Point
	for _, m := range s.Points {
		_, protected := s.isProtected(m)
		points = append(points, retention.Point{
			ID: m.ID, Number: m.Number(), Time: m.Time, Base: m.IsBase(),
			Damaged: s.damaged[m.ID], Verified: s.sound[m.ID], Protected: protected,
		})
	}
	rules := request.Rules
	if len(request.Remove) > 0 {
		rules = retention.Rules{Last: 1} // the newest, and what always stays
	}
	decisions := retention.Decide(points, rules)
	if len(request.Remove) > 0 {
		if decisions, err = r.named(s, decisions, request.Remove); err != nil {
			return nil, err
		}
	}
	for i, d := range decisions {
		m := s.Points[i]
		p := Point{ID: m.ID, Kind: m.Kind, Time: m.Time, Bytes: imageBytes(m), Keep: d.Keep, Reasons: d.Reasons}
		if protection, ok := s.isProtected(m); ok {
			p.Reasons = slices.DeleteFunc(slices.Clone(p.Reasons), func(reason string) bool { return reason == "protected" })
			p.Reasons = append(p.Reasons, protection.String())
		}
		if by := s.pinned(m.ID); by != "" {
			if !p.Keep {
				p.Reasons = nil
			}
			p.Keep, p.Reasons = true, append(p.Reasons, by)
		}
		r.result.Points = append(r.result.Points, p)
		if !p.Keep {
			remove = append(remove, p)
		}
	}
	return remove, nil
}

// named changes decisions so that just the named points are removed. Those that always stay
// are refused.
func (r *run) named(s state, always []retention.Decision, ids []string) ([]retention.Decision, error) {
	for _, id := range ids {
		if _, err := r.repo.Point(r.domain, id); err != nil {
			return nil, err
		}
	}
	if err := r.repo.CheckRemovable(r.domain, ids, time.Now()); err != nil {
		return nil, err
	}
	var decisions []retention.Decision
	for _, d := range always {
		named := slices.Contains(ids, d.ID)
		switch {
		case named && d.Keep:
			return nil, fail.Errorf(fail.Usage, "virtbackup release "+manifest.ShellWord(r.domain)+" --points removes all points of the domain",
				"point %s of domain %s is never removed: %s", d.ID, r.domain, strings.Join(notRules(d.Reasons), ", "))
		case named:
			decisions = append(decisions, retention.Decision{ID: d.ID, Reasons: []string{"named"}})
		default:
			decisions = append(decisions, retention.Decision{ID: d.ID, Keep: true, Reasons: []string{"not named"}})
		}
	}
	return decisions, nil
}

// notRules leaves out the rule that stands for none.
func notRules(reasons []string) []string {
	return slices.DeleteFunc(slices.Clone(reasons), func(s string) bool { return s == "last" })
}

// imageBytes is the length of a point's images.
func imageBytes(m manifest.Manifest) (n int64) {
	for _, d := range m.Disks {
		n += d.ImageBytes
	}
	return n
}
