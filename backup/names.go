package backup

import (
	"errors"
	"slices"
	"strings"

	"github.com/virtbackup/virtbackup/backup/plan"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

// warnOfRename warns if the domain has points under another name: a rename keeps the
// UUID, and points stay where they are.
func (r *run) warnOfRename(s plan.State) error {
	if len(s.Points) > 0 {
		return nil
	}
	names, err := r.repo.NamesOf(r.domain.Domain.UUID())
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(names, func(name string) bool { return name == r.Domain })
	if len(names) > 0 {
		r.warn("domain %s was called %s when its earlier points were made: they stay under that name and restore, and a new chain begins "+
			"(virsh domrename %s %s continues the old one; virtbackup release %s drops its checkpoints)",
			r.Domain, strings.Join(names, ", "), r.word(), manifest.ShellWord(names[0]), manifest.ShellWord(names[0]))
	}
	return nil
}

// hintOfRename adds a hint to the error for a name that libvirt does not know: the name
// that libvirt has now for the domain of the points under that name.
func (r *run) hintOfRename(err error) error {
	if !errors.Is(err, hypervisor.ErrNoDomain) || manifest.ValidDomain(r.Domain) != nil {
		return err
	}
	repo, openErr := repository.Open(r.Repository)
	if openErr != nil {
		return err
	}
	uuid, ownerErr := repo.Owner(r.Domain)
	if ownerErr != nil || uuid == "" {
		return err
	}
	domain, lookupErr := r.Host.DomainByUUID(uuid)
	if lookupErr != nil {
		return err
	}
	return fail.WithHint(err, "libvirt calls the domain of these points %s now", manifest.ShellWord(domain.Name()))
}
