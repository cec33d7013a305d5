package verify

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/lineage"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// choose finds the requested domains.
func (r *run) choose() ([]string, error) {
	names, err := r.repo.Domains()
	if err != nil || r.Domain == "" {
		return names, err
	}
	if !slices.Contains(names, r.Domain) {
		if lineage, err := r.repo.Lineage(r.Domain); err == nil && lineage.Err() != nil {
			return nil, lineage.Err()
		}
		return nil, fmt.Errorf("domain %s has no points in repository %s: %w", r.Domain, r.repo.Dir(), manifest.ErrNoPoint)
	}
	return []string{r.Domain}, nil
}

// verifyDomain reads the points of a domain, all or the requested one, while no merge
// replaces them.
func (r *run) verifyDomain(ctx context.Context, name string) (d *domainRun, err error) {
	found := len(r.damage)
	err = r.repo.Read(ctx, name, func() error {
		r.damage = r.damage[:found] // of the last try
		var err error
		if d, err = r.newDomainRun(name); err != nil {
			return err
		}
		r.Log.Info(d.what())
		if err := d.verify(ctx); err != nil {
			return err
		}
		return damage.ErrorOf(r.damage[found:])
	})
	if d != nil && fail.Is(err, fail.Damaged) && !fail.Is(err, fail.Bug) && len(r.damage) > found {
		err = nil // the report has it
	}
	return d, err
}

// newDomainRun finds the points of a domain to be verified.
func (r *run) newDomainRun(name string) (*domainRun, error) {
	lineage, err := r.repo.Lineage(name)
	if err != nil {
		return nil, err
	}
	d := &domainRun{run: r, lineage: lineage, chosen: needed(lineage), digests: map[string]string{},
		known: r.repo.Proofs(lineage), seen: map[string]map[string][repository.Parts]repository.Look{}, began: map[string]time.Time{}, built: map[string]map[string]repository.Look{}}
	if r.Point != "" {
		if err := d.choosePoint(r.Point); err != nil {
			return nil, err
		}
	}
	d.expect(d.chosen)
	for _, id := range lineage.AllIDs() {
		if digest, err := r.repo.ManifestDigest(name, id); err == nil {
			d.digests[id] = digest
		}
	}
	return d, nil
}

// expect adds to what will be read, without hash lists and tables.
func (d *domainRun) expect(points []manifest.Manifest) {
	for _, m := range points {
		for _, disk := range m.Disks {
			d.expected += d.share(disk.ImageBytes)
		}
		for _, e := range m.Extras {
			d.expected += d.share(e.Size)
		}
	}
}

// share is how much will be read of a file of so many bytes.
func (r *run) share(bytes int64) int64 {
	switch {
	case r.Quick:
		return 0
	case r.Sample > 0:
		return int64(float64(bytes) / 100 * float64(r.Sample))
	}
	return bytes
}

// needed are the listed points and the hidden ones that they need, oldest first.
func needed(l *lineage.Lineage) []manifest.Manifest {
	need := map[string]bool{}
	for _, m := range l.Points {
		if need[m.ID] = true; m.Parent != "" {
			for _, parent := range l.Needs(m.Parent) {
				need[parent.ID] = true
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(l.All()), func(m manifest.Manifest) bool { return !need[m.ID] })
}

// choosePoint chooses one point, readable or not.
func (d *domainRun) choosePoint(id string) error {
	if _, ok := d.lineage.Point(id); ok && !d.isHidden(id) {
		d.chosen = d.lineage.Needs(id)
		return nil
	}
	isIt := func(p damage.Point) bool { return p.ID == id }
	if slices.ContainsFunc(d.lineage.Unreadable, isIt) {
		d.chosen = nil
		return nil
	}
	if _, err := d.repo.Point(d.lineage.Domain, id); err != nil { // hidden, or there is none
		return err
	}
	return fmt.Errorf("%w: %s of domain %s", manifest.ErrNoPoint, id, d.lineage.Domain)
}

func (d *domainRun) isHidden(id string) bool {
	_, hidden := d.lineage.Removals[id]
	return hidden
}

// what describes what will be read.
func (d *domainRun) what() string {
	var ids []string
	images := 0
	for _, m := range d.chosen {
		ids = append(ids, m.ID)
		images += len(m.Disks)
	}
	if len(ids) == 0 {
		return fmt.Sprintf("%s: no point that can be read", d.lineage.Domain)
	}
	what := "reading"
	switch {
	case d.Quick:
		what = "reading the tables of"
	case d.Sample > 0:
		what = fmt.Sprintf("reading %d%% of", d.Sample)
	}
	return fmt.Sprintf("%s: %s %s of %s: %s", d.lineage.Domain, what, count(images, "image"), count(len(ids), "point"), strings.Join(ids, " "))
}
