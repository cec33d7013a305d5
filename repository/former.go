package repository

import (
	"cmp"
	"slices"
	"strings"

	"github.com/virtbackup/virtbackup/manifest"
)

// NamesOf lists the domains whose points carry this UUID, sorted: more than one
// where a domain was renamed. It reads one manifest of each domain.
func (r *Repository) NamesOf(uuid string) ([]string, error) {
	domains, err := r.Domains()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, domain := range domains {
		owner, err := r.quickOwner(domain)
		if err != nil {
			return nil, err
		}
		if strings.EqualFold(owner, uuid) {
			names = append(names, domain)
		}
	}
	return names, nil
}

// quickOwner is Owner, but "" also where there are points and none can be read.
func (r *Repository) quickOwner(domain string) (string, error) {
	ids, err := r.pointIDs(domain)
	if err != nil {
		return "", err
	}
	slices.SortFunc(ids, func(a, b string) int { return cmp.Compare(manifest.NextNumber(b), manifest.NextNumber(a)) })
	for _, id := range ids {
		if m, err := r.readManifest(domain, id); err == nil {
			return m.DomainUUID, nil
		}
	}
	return "", nil
}
