package reading

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/diskimage"
	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/limit"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/qcow2/chain"
	"github.com/virtbackup/virtbackup/repository"
)

// Options of Open.
type Options struct {
	// Limits are shared with other runs of this process; nil: this one has its own.
	Limits *limit.Limits
	// Log gets warnings. nil means none.
	Log *slog.Logger
	// Ours tells whether the error of a copy comes from where the disks are written to,
	// so that nothing in the repository explains it. nil: none does.
	Ours func(err error) bool
	// Salvage reads what can be read of damaged images: what is unknown reads as zeros, and Lost
	// tells where that is. It is still right that nothing is read that was not proven.
	Salvage bool
	// Cached is that of hashlist.ReadOptions: parts of the disks are read repeatedly.
	Cached bool
}

// Point is a restore point that is being read. Its methods may be called side by side.
type Point struct {
	manifest.Manifest
	Options
	repo   *repository.Repository
	named  bool // the disks to read were named
	disks  []manifest.Disk
	chains [][]link // of each disk
	below  []error  // with Salvage, for each disk: the damage that hides the base of the chain

	mu        sync.Mutex // of what follows
	warnings  []string
	lost      map[string]*lostParts // by target
	lostFiles []string
}

// link is one image of a chain, and what was proven of it; nil is nothing.
type link struct {
	diskimage.Link
	proven *hashlist.ProvenRanges
}

// Open finds a point of a domain, and the images of its disks; their headers are checked, but
// not with Salvage. at
// is what [repository.Repository.Find] takes. disks are the targets of those that are read;
// none means all.
//
// It is to be called within [repository.Repository.Read], and the point is not to be used
// after that: the images may be replaced then.
//
// Errors: fail.Usage, fail.NotFound, *damage.Error.
func Open(repo *repository.Repository, domain, at string, disks []string, o Options) (*Point, error) {
	p := &Point{Options: o.withDefaults(), repo: repo, named: len(disks) > 0, lost: map[string]*lostParts{}}
	if err := p.choose(domain, at, disks); err != nil {
		return nil, err
	}
	if err := p.findChains(); err != nil {
		return nil, p.Explain(err)
	}
	return p, nil
}

func (o Options) withDefaults() Options {
	if o.Limits == nil {
		o.Limits = limit.New(0)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Ours == nil {
		o.Ours = func(error) bool { return false }
	}
	return o
}

// choose finds the point and its disks.
func (p *Point) choose(domain, at string, disks []string) error {
	var err error
	if p.Manifest, err = p.repo.Find(domain, at); err != nil {
		return err
	}
	for _, target := range disks {
		if _, ok := p.Disk(target); !ok {
			return fail.Errorf(fail.NotFound, "virtbackup show "+manifest.ShellWord(domain+"@"+p.ID), "point %s of domain %s has no disk %q", p.ID, domain, target)
		}
	}
	for _, d := range p.Manifest.Disks {
		if len(disks) == 0 || slices.Contains(disks, d.Target) {
			p.disks = append(p.disks, d)
		}
	}
	return nil
}

// findChains lists the images of each disk, base first, and checks their headers.
func (p *Point) findChains() error {
	p.chains, p.below = make([][]link, len(p.disks)), make([]error, len(p.disks))
	for i, d := range p.disks {
		images, err := p.links(i, d)
		if err != nil {
			return err
		}
		for _, image := range images {
			p.chains[i] = append(p.chains[i], link{Link: image})
		}
	}
	return nil
}

func (p *Point) links(i int, d manifest.Disk) (images []diskimage.Link, err error) {
	if p.Salvage {
		images, p.below[i], err = p.repo.LinksFound(p.Manifest, d)
		return images, err
	}
	return p.repo.Links(p.Domain, p.ID, d.Target)
}

// Disks are those to read, in the order of the manifest.
func (p *Point) Disks() []manifest.Disk { return slices.Clone(p.disks) }

// AtMost is how many bytes of data a disk of Disks has at most, by the manifests of its chain.
func (p *Point) AtMost(target string) (bytes int64) {
	for _, l := range p.chains[p.index(target)] {
		bytes += l.Disk.DataBytes
	}
	return bytes
}

// index is that of a disk of Disks.
func (p *Point) index(target string) int {
	return slices.IndexFunc(p.disks, func(d manifest.Disk) bool { return d.Target == target })
}

// OpenDisk opens the chain of a disk of Disks to be read as a whole. All that is read of it is
// proven; what was read of the chain that was opened last, CheckRest does not read again. The
// caller calls closeChain when nobody reads the chain any more.
func (p *Point) OpenDisk(ctx context.Context, target string) (images *chain.Chain, closeChain func(), err error) {
	i := p.index(target)
	links := p.chains[i]
	var files []diskimage.Link
	for _, l := range links {
		files = append(files, l.Link)
	}
	o := hashlist.ReadOptions{Warn: p.Warn, Cached: p.Cached}
	if p.Salvage {
		return diskimage.OpenSalvaging(ctx, files, p.below[i], o, func(offset, length int64, why error) { p.lose(target, offset, length, why) })
	}
	images, proven, closeChain, err := diskimage.OpenChain(ctx, files, o)
	for i, ranges := range proven {
		links[i].proven = ranges
	}
	if err != nil {
		return nil, nil, err
	}
	if size := p.disks[i].VirtualSize; images.Size() != size {
		closeChain()
		return nil, nil, fmt.Errorf("%s has %d bytes, its manifest says %d", links[len(links)-1].Path, images.Size(), size)
	}
	return images, closeChain, nil
}

// Warn reports what does not prevent the restore.
func (p *Point) Warn(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.warnings = append(p.warnings, text)
	p.Log.Warn(text)
}

// Warnings are what Warn was told so far.
func (p *Point) Warnings() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.warnings)
}

// Explain adds to damage which points are lost with it, and which are not.
func (p *Point) Explain(err error) error {
	var damaged *damage.Error
	if errors.As(err, &damaged) {
		p.repo.Explain(damaged)
	}
	return err
}
