package lineage

import (
	"fmt"
	"strings"

	"github.com/virtbackup/virtbackup/manifest"
)

// NeededError says why a point is not removed: others are chained onto it.
type NeededError struct {
	Domain, ID string
	By         []string // points that name it as parent, oldest first
	Unreadable []string // points that may do so: their manifests cannot be read
}

// Error names the points that need it.
func (e *NeededError) Error() string {
	s := fmt.Sprintf("point %s of domain %s is not removed", e.ID, e.Domain)
	if len(e.By) > 0 {
		s += ": " + strings.Join(e.By, ", ") + " could not be restored without it"
	}
	if len(e.Unreadable) > 0 {
		s += ": " + strings.Join(e.Unreadable, ", ") + " may need it (manifest not readable)"
	}
	return s
}

// Hint says in which order it can be done.
func (e *NeededError) Hint() string {
	return "remove the points that need it first, the newest first; or all of the domain's at once"
}

// CheckUnneeded returns a *NeededError where a point that would stay needs one
// of these.
func (l *Lineage) CheckUnneeded(ids []string) error {
	leave := map[string]bool{}
	for _, id := range ids {
		leave[id] = true
	}
	stays := func(id string) bool { return !leave[id] }
	for _, id := range ids {
		needed := &NeededError{Domain: l.Domain, ID: id}
		for _, child := range l.Children(id) {
			if stays(child) {
				needed.By = append(needed.By, child)
			}
		}
		for _, p := range l.Unreadable {
			if stays(p.ID) && manifest.NextNumber(p.ID) > manifest.NextNumber(id) {
				needed.Unreadable = append(needed.Unreadable, p.ID)
			}
		}
		if len(needed.By)+len(needed.Unreadable) > 0 {
			return needed
		}
	}
	return nil
}
