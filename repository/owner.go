package repository

import (
	"cmp"
	"fmt"
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

// OtherDomainError says that a domain's directory belongs to another domain of
// the same name.
type OtherDomainError struct {
	Name string
	Want string // UUID of the domain at hand
	Have string // UUID that the points carry
}

// Error names both UUIDs.
func (e *OtherDomainError) Error() string {
	return fmt.Sprintf("the points of domain %s belong to the UUID %s, this domain has %s", e.Name, e.Have, e.Want)
}

// Owner is the UUID that the directory of a domain belongs to: that of its
// newest point that can be read. It is empty where there are no points. Where
// there are points and none can be read, the error says so.
func (r *Repository) Owner(domain string) (string, error) {
	uuid, err := r.quickOwner(domain)
	if err != nil || uuid != "" {
		return uuid, err
	}
	l, err := r.Lineage(domain)
	if err != nil {
		return "", err
	}
	return "", l.Err()
}

// CheckOwner returns an *OtherDomainError where the directory of the domain
// belongs to another UUID than this one.
func (r *Repository) CheckOwner(domain, uuid string) error {
	have, err := r.Owner(domain)
	if err != nil {
		return err
	}
	if have != "" && !strings.EqualFold(have, uuid) {
		return &OtherDomainError{Name: domain, Want: uuid, Have: have}
	}
	return nil
}

// Hint says how to keep the two apart.
func (e *OtherDomainError) Hint() string {
	return "use another repository for this domain (--repo), or rename one of the two; the points of the other one are kept"
}
