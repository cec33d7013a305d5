package backup

import (
	"slices"
	"strings"
)

// warnOfRename says that the domain has points under another name: a rename keeps the
// UUID, and points stay where they are.
func (r *run) warnOfRename(s State) error {
	if len(s.Points) > 0 {
		return nil
	}
	names, err := r.repo.NamesOf(r.domain.UUID())
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(names, func(name string) bool { return name == r.Domain })
	if len(names) > 0 {
		r.warn("domain %s was called %s when its earlier points were made: they stay under that name and restore, and a new chain begins "+
			"(virsh domrename %s %s goes on with the old one; virtbackup release %s drops its checkpoints)",
			r.Domain, strings.Join(names, ", "), r.Domain, names[0], names[0])
	}
	return nil
}
