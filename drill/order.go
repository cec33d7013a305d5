package drill

import (
	"cmp"
	"slices"
	"time"

	"github.com/virtbackup/virtbackup/drill/record"
	"github.com/virtbackup/virtbackup/repository"
)

// Order are the domains that have points, those that were drilled longest ago first, whatever came
// of it; those never drilled before all others.
func Order(repo *repository.Repository) ([]string, error) {
	domains, err := repo.Domains()
	if err != nil {
		return nil, err
	}
	last := map[string]time.Time{}
	var all []string
	for _, name := range domains {
		l, err := repo.Lineage(name)
		if err != nil {
			return nil, err
		}
		if len(l.Points) == 0 && l.Err() == nil {
			continue
		}
		all = append(all, name)
		if records := record.List(repo.DomainDir(name)); len(records) > 0 {
			last[name] = records[len(records)-1].Time
		}
	}
	slices.SortStableFunc(all, func(a, b string) int { return cmp.Or(last[a].Compare(last[b]), cmp.Compare(a, b)) })
	return all, nil
}
