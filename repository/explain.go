package repository

import (
	"slices"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/manifest"
)

// Explain adds to a *damage.Error what follows from it for the other points of
// the domain. If they cannot be listed, it stays as it was.
func (r *Repository) Explain(e *damage.Error) {
	if len(e.Points) == 0 || e.Points[0].ID == "" {
		return
	}
	l, err := r.Lineage(e.Points[0].Domain)
	if err != nil || len(l.Unreadable) > 0 && l.Unreadable[0].ID == "" {
		return
	}
	hit, whole, files := map[string]bool{}, map[string]bool{}, map[manifest.ImageRef]bool{}
	for _, p := range append(slices.Clone(e.Points), l.Unreadable...) {
		hit[p.ID] = true
		whole[p.ID] = whole[p.ID] || p.File == ""
		files[manifest.ImageRef{Point: p.ID, Image: p.File}] = true
	}
	lost := l.Lost(func(ref manifest.ImageRef) bool { return whole[ref.Point] || files[ref] || l.Unchained(ref) })
	e.Lost, e.Left = nil, nil
	for _, p := range l.Unreadable {
		e.Lost = append(e.Lost, p.ID)
	}
	verified := r.VerifiedOf(l)
	for _, m := range l.Points {
		v, known := verified[m.ID]
		switch {
		case hit[m.ID] || len(lost[m.ID]) > 0:
			e.Lost = append(e.Lost, m.ID)
		case known && !v.Sound: // this damage leaves it alone, another does not
		default:
			e.Left = append(e.Left, m.ID)
		}
	}
}
