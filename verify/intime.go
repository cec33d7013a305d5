package verify

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/manifest"
)

// turn is a point that waits to be verified.
type turn struct {
	domain  *domainRun
	point   manifest.Manifest
	oldest  int64 // when the byte of it was read that is oldest, 0: never
	percent int   // how much of it was ever
}

// verifyInTime verifies one point after another, those read longest ago first, until the time
// is over. What each has proven is recorded at once, so that a run that is killed was not for
// nothing.
func (r *run) verifyInTime(ctx context.Context, names []string) ([]*domainRun, error) {
	end := time.Now().Add(r.MaxDuration)
	var domains []*domainRun
	var turns []turn
	for _, name := range names {
		d, err := r.newDomainRun(name)
		if err != nil {
			return nil, err
		}
		domains = append(domains, d)
		for _, m := range d.chosen {
			oldest, percent := d.known.Own(m.ID)
			turns = append(turns, turn{d, m, oldest, percent})
		}
		d.chosen, d.expected = nil, 0
	}
	slices.SortStableFunc(turns, func(a, b turn) int { // of a domain the parents stay first
		return cmp.Or(cmp.Compare(a.oldest, b.oldest), cmp.Compare(a.percent, b.percent))
	})
	for i, t := range turns {
		if i > 0 && !time.Now().Before(end) {
			t.domain.left = append(t.domain.left, t.point.ID)
			continue
		}
		if err := r.verifyPoint(ctx, t.domain, t.point); err != nil {
			return nil, err
		}
	}
	if err := r.finish(ctx, domains); err != nil {
		return nil, err
	}
	r.warnOfLeft(domains)
	return domains, nil
}

// warnOfLeft tells whoever reads warnings only that this was not everything.
func (r *run) warnOfLeft(domains []*domainRun) {
	left := 0
	for _, d := range domains {
		left += len(d.left)
	}
	switch {
	case left == 1:
		r.warn("1 point is left: the next run begins with it")
	case left > 1:
		r.warn(fmt.Sprintf("%d points are left: the next run begins with them", left))
	}
}

// verifyPoint verifies the files of one point, while no merge replaces it.
func (r *run) verifyPoint(ctx context.Context, d *domainRun, m manifest.Manifest) error {
	found := len(r.damage)
	err := r.repo.Read(ctx, m.Domain, func() error {
		r.damage = r.damage[:found] // of the last try
		delete(d.seen, m.ID)
		delete(d.built, m.ID)
		if d.isReplaced(m) {
			r.Log.Info(fmt.Sprintf("%s: %s was replaced or removed meanwhile", m.Domain, m.ID))
			d.left = append(d.left, m.ID)
			return nil
		}
		r.Log.Info(fmt.Sprintf("%s: reading %s", m.Domain, m.ID))
		d.expect([]manifest.Manifest{m})
		if err := d.readPoints(ctx, []manifest.Manifest{m}); err != nil {
			return err
		}
		return damage.ErrorOf(r.damage[found:])
	})
	if err != nil && (len(r.damage) == found || !fail.Is(err, fail.Damaged) || fail.Is(err, fail.Bug)) {
		return err
	}
	if slices.Contains(d.left, m.ID) {
		return nil
	}
	d.chosen = append(d.chosen, m)
	if err := fault.Point("verify: note a point"); err != nil {
		return err
	}
	d.note(now())
	return nil
}

// isReplaced tells whether a point is not the one any more that it was when the run began.
func (d *domainRun) isReplaced(m manifest.Manifest) bool {
	digest, err := d.repo.ManifestDigest(m.Domain, m.ID)
	return err != nil || digest != d.digests[m.ID]
}

// finish checks how the points that were verified are chained.
func (r *run) finish(ctx context.Context, domains []*domainRun) error {
	for _, d := range domains {
		slices.SortFunc(d.chosen, manifest.CompareAge)
		slices.SortFunc(d.left, func(a, b string) int { return cmp.Compare(number(a), number(b)) })
		err := r.repo.Read(ctx, d.lineage.Domain, func() error {
			d.checkManifests()
			all := d.chosen
			defer func() { d.chosen = all }()
			d.chosen = slices.DeleteFunc(slices.Clone(all), d.isReplaced) // qemu-img would not find it
			return d.checkChains(ctx)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
