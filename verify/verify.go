// Package verify proves that points can be restored: it reads every byte of all of their
// files once and compares it with hash lists and manifests, follows the chains, and lets
// qemu-img check the structure of each image and open each chain. A quick run reads no data of
// the disks, and a sample only the parts that were read longest ago.
package verify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/diskimage"
	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/keep"
	"github.com/virtbackup/virtbackup/lineage"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/pointfile"
	"github.com/virtbackup/virtbackup/repository"
)

// imagesAtOnce is how many images are read in parallel, each by several readers, so that
// the disk is not idle between two small images. Each takes some 8 MiB of memory.
const imagesAtOnce = 2

// Request is what to verify. The zero value means everything.
type Request struct {
	Domain string // "" means all domains
	// Point, with Domain, is one point; the points that it needs are verified, too.
	Point string
	// Quick reads what describes the data, but none of it; it proves no point.
	Quick bool
	// Sample is how much of each file is read besides, in percent from 1 to 100: the parts that
	// were read longest ago. 0 is everything, whatever was proven.
	Sample int
	// MaxDuration, unless it is 0, ends the run between two points, after one at least. Those
	// verified longest ago are taken first, without the points that they need, and the run
	// after takes those that were left.
	MaxDuration time.Duration
	// Log gets a message for each domain. It may be nil.
	Log *slog.Logger
	// Progress, if set, is called with the bytes of a domain's points that have been
	// read, and the expected total. It is called often, from several goroutines.
	Progress func(domain string, read, expected int64)
}

// run is one verification.
type run struct {
	Request
	repo     *repository.Repository
	warnings []string

	mu     sync.Mutex
	damage []damage.Place
}

// domainRun is the verification of one domain.
type domainRun struct {
	*run
	lineage *lineage.Lineage
	chosen  []manifest.Manifest // with the points that they need, oldest first
	// digests are those of the manifests that were verified, by the ids of the points: a merge
	// may replace a point as soon as it is read.
	digests map[string]string
	// known is what was proven before, by which samples are chosen.
	known *repository.Proofs
	left  []string // points that were not verified for lack of time

	mu       sync.Mutex
	read     int64
	expected int64
	seen     map[string]map[string][repository.Parts]repository.Look // by point and file
	began    map[string]time.Time                                    // when the files of a point began to be read
	built    map[string]map[string]repository.Look                   // by point and disk: the structure of its image
}

// Run verifies points. Damage is not an error: the report lists all of it. The results are
// recorded in the repository, if it can be written to. Errors are manifest.ErrNoPoint for a
// name that does not exist, a *damage.Error for a domain whose points cannot be listed, the
// cause if ctx is cancelled, and errors of reading.
func Run(ctx context.Context, repo *repository.Repository, request Request) (Report, error) {
	start := time.Now()
	r := &run{Request: request, repo: repo}
	if r.Log == nil {
		r.Log = slog.New(slog.DiscardHandler)
	}
	if r.Progress == nil {
		r.Progress = func(string, int64, int64) {}
	}
	names, err := r.choose()
	if err != nil {
		return Report{}, err
	}
	verifyAll := r.verifyDomains
	if r.MaxDuration > 0 {
		verifyAll = r.verifyInTime
	}
	domains, err := verifyAll(ctx, names)
	if err != nil {
		return Report{}, err
	}
	r.checkDescription(domains)
	for _, d := range domains {
		d.checkInstants()
		d.checkRetention()
	}
	report := Report{Repository: repo.Dir(), Quick: r.Quick, Sample: r.Sample, Time: now()}
	for _, d := range domains {
		report.Domains = append(report.Domains, d.report(report.Time))
		report.Bytes += d.read
	}
	report.Damage, report.Warnings = r.sorted(domains), r.warnings
	report.Seconds = time.Since(start).Seconds()
	return report, nil
}

// now is the time as verified.json has it.
func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

// verifyDomains verifies one domain after another.
func (r *run) verifyDomains(ctx context.Context, names []string) (domains []*domainRun, err error) {
	for _, name := range names {
		d, err := r.verifyDomain(ctx, name)
		if err != nil {
			return nil, err
		}
		domains = append(domains, d)
		d.note(now()) // so that a run that is killed later was not for nothing
	}
	return domains, nil
}

func (r *run) found(damage ...damage.Place) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.damage = append(r.damage, damage...)
}

func (r *run) warn(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Contains(r.warnings, text) {
		r.warnings = append(r.warnings, text)
		r.Log.Warn(text)
	}
}

// verify reads all files of the chosen points.
func (d *domainRun) verify(ctx context.Context) error {
	d.checkManifests()
	if err := d.readPoints(ctx, d.chosen); err != nil {
		return err
	}
	return d.checkChains(ctx)
}

// readPoints reads the files of points.
func (d *domainRun) readPoints(ctx context.Context, points []manifest.Manifest) error {
	group, reading := panics.WithContext(ctx)
	group.SetLimit(imagesAtOnce)
	for _, m := range points {
		d.began[m.ID] = now()
		group.Go(func() error { return errors.Join(fault.Point("verify files"), d.checkFiles(reading, m)) })
		for _, disk := range m.Disks {
			group.Go(func() error { return d.checkDisk(reading, m, disk) })
		}
	}
	return group.Wait()
}

// checkDisk reads an image and its hash list, and checks the image's structure in parallel:
// starting qemu-img takes longer than reading most increments. The result of qemu-img is
// used only if the image is as it was written.
func (d *domainRun) checkDisk(ctx context.Context, m manifest.Manifest, disk manifest.Disk) error {
	var found []damage.Place
	var faults string
	var checked bool
	group, ctx := panics.WithContext(ctx)
	group.Go(func() (err error) {
		found, err = d.checkImage(ctx, m, disk)
		return err
	})
	group.Go(func() (err error) {
		if err := fault.Point("verify structure"); err != nil {
			return err
		}
		faults, checked, err = d.checkStructure(ctx, m, disk)
		return err
	})
	if err := group.Wait(); err != nil {
		return err
	}
	d.found(found...)
	switch {
	case damage.ErrorOf(found) != nil || !checked: // nothing is known of the structure
	case faults == "":
		d.seeStructure(m.ID, disk.Target, repository.Right)
	default:
		d.seeStructure(m.ID, disk.Target, repository.Wrong)
		d.found(damage.Place{Domain: m.Domain, Point: m.ID, File: filepath.Join(m.Domain, m.ID, disk.Image),
			Disk: disk.Target, WholeDisk: true, What: faults})
	}
	return nil
}

// checkStructure returns what is wrong with the header of an image, or, according to
// qemu-img, with the rest; "" if nothing is, or it is not checked.
func (d *domainRun) checkStructure(ctx context.Context, m manifest.Manifest, disk manifest.Disk) (faults string, checked bool, err error) {
	var damaged *damage.Error
	if err := diskimage.CheckHeader(d.repo.Link(m, disk)); errors.As(err, &damaged) {
		return damaged.Points[0].Err.Error(), true, nil
	}
	faults, err = checkStructure(ctx, filepath.Join(d.repo.PointDir(m.Domain, m.ID), disk.Image))
	if errors.Is(err, exec.ErrNotFound) {
		d.warn("qemu-img is not installed: the files are as they were written, but their qcow2 structure was not checked")
		return "", false, nil
	}
	return faults, err == nil, err
}

// checkManifests finds points that cannot be read, and parents that are missing. A point
// that was not chosen is reported only if a chosen one needs it.
func (d *domainRun) checkManifests() {
	domain := d.lineage.Domain
	for _, p := range d.lineage.Unreadable {
		if d.Point != "" && p.ID != d.Point && !d.needs(p.ID) {
			continue
		}
		d.found(damage.Place{Domain: domain, Point: p.ID, File: filepath.Join(domain, p.ID, manifest.FileName),
			What: fmt.Sprintf("the point cannot be read, and its other files could not be checked: %v", p.Err)})
	}
	for _, m := range d.chosen {
		for _, disk := range m.Disks {
			parent, err := d.lineage.Parent(m, disk)
			switch {
			case err == nil || d.isUnreadable(parent.Point):
			case errors.Is(err, manifest.ErrNoPoint):
				d.missing(damage.Place{Domain: domain, Point: parent.Point, File: filepath.Join(domain, parent.Point),
					What: fmt.Sprintf("the point is missing; %s needs it", m.ID)})
			default:
				d.found(damage.Place{Domain: domain, Point: m.ID, File: filepath.Join(domain, m.ID, disk.Image),
					Disk: disk.Target, WholeDisk: true, What: fmt.Sprintf("has another %s below it than when it was made: %v", parent.Point, err)})
			}
		}
	}
}

// missing reports a missing point once, even if several points need it.
func (d *domainRun) missing(damage damage.Place) {
	for _, other := range d.damage {
		if other.File == damage.File {
			return
		}
	}
	d.found(damage)
}

func (d *domainRun) isUnreadable(id string) bool {
	return slices.ContainsFunc(d.lineage.Unreadable, func(p damage.Point) bool { return p.ID == id })
}

// needs reports whether a chosen point is chained onto this one.
func (d *domainRun) needs(id string) bool {
	for _, m := range d.chosen {
		for _, disk := range m.Disks {
			if ref, _ := d.lineage.Parent(m, disk); ref.Point == id {
				return true
			}
		}
	}
	return false
}

// checkFiles checks the files of a point that are neither images nor hash lists. The
// documents are too small to count as progress.
func (d *domainRun) checkFiles(ctx context.Context, m manifest.Manifest) error {
	left := d.leftExtras(m)
	for name := range m.Files {
		i := slices.IndexFunc(m.Extras, func(e manifest.Extra) bool { return e.File == name })
		var progress func(int64)
		if i >= 0 {
			progress = d.progress
		}
		if left[name] {
			damage := checkSize(d.repo.PointDir(m.Domain, m.ID), m, m.Extras[i])
			d.found(damage...)
			d.seeExtra(m.ID, name, false, damage)
			continue
		}
		damage, err := pointfile.Check(ctx, d.repo.PointDir(m.Domain, m.ID), m, name, progress)
		if err != nil {
			return err
		}
		d.found(damage...)
		if i >= 0 {
			d.seeExtra(m.ID, name, true, damage)
		}
	}
	return nil
}

func (d *domainRun) progress(bytes int64) {
	d.mu.Lock()
	d.read += bytes
	read := d.read
	d.mu.Unlock()
	d.Progress(d.lineage.Domain, read, max(d.expected, read))
}

// checkInstants finds damage in the list of identities, without which no checkpoint in
// libvirt is known to be ours.
func (d *domainRun) checkInstants() {
	ledger, err := d.repo.Ledger(d.lineage.Domain)
	switch {
	case err != nil: // only a warning, so that the other results are reported
		d.warn(err.Error())
	case ledger.Damage != nil:
		d.found(damage.Place{Domain: d.lineage.Domain, File: filepath.Join(d.lineage.Domain, instants.FileName), Harmless: true,
			What: fmt.Sprintf("%v; the next backup reads the disks and compares them", ledger.Damage)})
	}
}

// checkRetention finds damage in what says which points were removed and which must not be.
func (d *domainRun) checkRetention() {
	domain := d.lineage.Domain
	for _, p := range d.lineage.BadRemovals {
		if d.Point == "" || d.Point == p.ID {
			d.found(damage.Place{Domain: domain, Point: p.ID, File: filepath.Join(domain, p.ID, p.File), Harmless: true,
				What: fmt.Sprintf("%v; the point is not hidden while it is damaged", p.Err)})
		}
	}
	var damaged *damage.Error
	switch _, err := d.repo.Protections(domain); {
	case errors.As(err, &damaged):
		d.found(damage.Place{Domain: domain, File: filepath.Join(domain, keep.ProtectedName), Harmless: true, What: damaged.Points[0].Err.Error()})
	case err != nil:
		d.warn(err.Error())
	}
	_, pins, err := d.repo.Pins(domain)
	if err != nil {
		d.warn(err.Error())
	}
	for _, name := range pins {
		d.found(damage.Place{Domain: domain, File: filepath.Join(domain, keep.PinsName, name), Harmless: true,
			What: "is damaged: no point of the domain is replaced or deleted as long as it is there"})
	}
}

// checkDescription compares the UUID in repository.json with that in the points.
func (r *run) checkDescription(domains []*domainRun) {
	others := map[string]bool{}
	for _, d := range domains {
		for _, m := range d.chosen {
			others[m.Repository] = true
		}
	}
	if len(others) == 0 || slices.ContainsFunc(r.repo.IDs(), func(id string) bool { return others[id] }) {
		return
	}
	r.found(damage.Place{File: "repository.json", Harmless: true,
		What: fmt.Sprintf("has the UUID %s, but the points are of another repository: it is damaged, or was created again", r.repo.ID())})
}

// note records what was found in the points of a domain, and returns what is known then.
func (d *domainRun) note(now time.Time) *repository.Proofs {
	lost, own := lostBy(d.lineage, d.damage)
	points := map[string]repository.Checked{}
	for id, digest := range d.digests {
		c := repository.Checked{Manifest: digest, Damaged: own[id] || len(lost[id]) > 0, Lost: lost[id], Since: d.began[id], Seen: d.seen[id], Structure: maps.Clone(d.built[id])}
		if c.Damaged || len(c.Seen) > 0 {
			points[id] = c
		}
	}
	proofs, err := d.repo.SetChecked(d.lineage, now, points)
	switch {
	case localfile.Unreadable(err):
		d.warn(fmt.Sprintf("%v: what was found in domain %s is not recorded", err, d.lineage.Domain))
	case err != nil:
		d.Log.Debug(fmt.Sprintf("%v: virtbackup list will not show it", err))
	}
	return proofs
}
