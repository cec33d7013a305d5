package prune

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/drill/record"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/keep"
	"github.com/virtbackup/virtbackup/lineage"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/retention"
)

// state is what the repository says of a domain's points.
type state struct {
	*lineage.Lineage
	protected map[string]keep.Protection // those that hold now
	verified  map[string]repository.Verification
	drills    map[string]record.Record
	verdicts
	pinned func(id string) (by string)
	gone   map[string]bool // in a dry run: what would be deleted by then
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
	if err := r.badRemovals(l); err != nil {
		return state{}, err
	}
	s := state{Lineage: l, verified: r.repo.VerifiedOf(l), drills: r.repo.DrillsOf(l)}
	if s.protected, err = r.repo.Protections(r.domain); err != nil {
		return state{}, err
	}
	s.verdicts = judge(l, s.verified)
	s.protected = l.Protected(s.protected, time.Now())
	if s.pinned, err = r.repo.Pinned(r.domain); err != nil {
		return state{}, err
	}
	return s, nil
}

// damageOf is a *damage.Error of what the manifests show; nil if they are sound.
func (r *run) damageOf(l *lineage.Lineage) error {
	e := &damage.Error{Points: slices.Clone(l.Unreadable)}
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

// badRemovals is the error for points of which it is unknown whether they were removed; nil if
// there are none.
func (r *run) badRemovals(l *lineage.Lineage) error {
	if len(l.BadRemovals) == 0 {
		return nil
	}
	e := &damage.Error{Points: l.BadRemovals}
	if err := e.NotNow(); err != nil {
		return err
	}
	return fail.WithHint(e, "the point restores; virtbackup prune %s --undo %s lists it again", manifest.ShellWord(r.domain), e.Points[0].ID)
}

// verdicts are what the last verifications found of points and all that they need.
type verdicts struct {
	// sound: every byte was as it was written, and nothing was replaced since.
	sound map[string]bool
	// damaged: the point, or an image that one of its disks needs, was not.
	damaged map[string]bool
	// last is what is known of a point: its own verification, or what follows from the later
	// ones of what it needs.
	last map[string]repository.Verification
}

// judge takes the points oldest first, so that parents come before their children. What is
// called sound is so with all that it needs: repository.Proofs has seen to that. Damage of
// a parent is that of a child only through a disk that is chained onto a damaged image: after
// damage a disk is copied in full, and the chain goes on. The newer verification counts.
func judge(l *lineage.Lineage, verified map[string]repository.Verification) verdicts {
	v := verdicts{map[string]bool{}, map[string]bool{}, map[string]repository.Verification{}}
	lost := map[manifest.ImageRef]time.Time{} // since when
	for _, m := range l.All() {
		own, known := verified[m.ID]
		whole := known && !own.Sound && len(own.Lost) == 0 // which disk is unknown, or it is none
		v.sound[m.ID], v.damaged[m.ID] = own.Sound, whole
		last := own
		for _, d := range m.Disks {
			ref := manifest.ImageRef{Point: m.ID, Image: d.Image}
			parent, _ := l.Parent(m, d)
			found, isLost := lost[parent]
			switch {
			case known && slices.Contains(own.Lost, d.Target):
				lost[ref] = own.Time
			case d.Parent != "" && isLost && (!known || found.After(own.Time)):
				lost[ref] = found
			}
			_, isLost = lost[ref]
			v.sound[m.ID] = v.sound[m.ID] && !isLost
			v.damaged[m.ID] = v.damaged[m.ID] || isLost
			if isLost && !slices.Contains(last.Lost, d.Target) {
				last.Time, last.Sound, last.Lost = lost[ref], false, append(slices.Clip(last.Lost), d.Target)
			}
		}
		v.last[m.ID] = last
	}
	return v
}

// decide fills in the table, and returns the points to be removed, oldest first.
func (r *run) decide(s state, request Request) (remove []Point, err error) {
	var points []retention.Point
	for _, m := range s.Points {
		_, protected := s.protected[m.ID]
		points = append(points, retention.Point{
			ID: m.ID, Number: m.Number(), Time: m.Time, Base: m.IsBase(),
			Damaged: s.damaged[m.ID], Verified: s.sound[m.ID], Booted: s.drills[m.ID].Booted, Protected: protected,
		})
	}
	rules := request.Rules
	rules.Now = time.Now()
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
		if protection, ok := s.protected[m.ID]; ok {
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
	ids, err := r.listedOf(ids)
	if err != nil {
		return nil, err
	}
	if err := r.repo.CheckRemovable(r.domain, ids, time.Now()); err != nil {
		return nil, err
	}
	var decisions []retention.Decision
	for _, d := range always {
		named := slices.Contains(ids, d.ID)
		switch {
		case named && d.Keep:
			return nil, fail.Errorf(fail.Usage, newerFirst(d.Reasons),
				"point %s of domain %s is never removed: %s", d.ID, r.domain, strings.Join(notRules(d.Reasons), ", "))
		case named:
			decisions = append(decisions, retention.Decision{ID: d.ID, Reasons: []string{"named"}})
		default:
			decisions = append(decisions, retention.Decision{ID: d.ID, Keep: true, Reasons: []string{"not named"}})
		}
	}
	return decisions, nil
}

// newerFirst says what would let go of a point that always stays.
func newerFirst(reasons []string) string {
	var prove []string
	for _, r := range []struct{ reason, verb string }{{"last verified", "verify"}, {"last booted", "drill"}} {
		if slices.Contains(reasons, r.reason) {
			prove = append(prove, r.verb)
		}
	}
	switch verbs := strings.Join(prove, " and "); {
	case len(prove) == 0:
		return "make a newer point first"
	case len(prove) == len(notRules(reasons)):
		return verbs + " a newer point first"
	default:
		return "make a newer point first, and " + verbs + " it"
	}
}

// listedOf leaves out ids of points that are hidden, as after an interrupted removal of
// several. If all are, the error says so.
func (r *run) listedOf(ids []string) (listed []string, err error) {
	var removed error
	for _, id := range ids {
		_, err := r.repo.Point(r.domain, id)
		var hidden *lineage.HiddenError
		switch {
		case errors.As(err, &hidden):
			removed = err
			r.note("%v", err)
		case err != nil:
			return nil, err
		default:
			listed = append(listed, id)
		}
	}
	if len(listed) == 0 {
		return nil, removed
	}
	return listed, nil
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
