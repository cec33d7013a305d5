package plan

import (
	"slices"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/retention"
	"github.com/virtbackup/virtbackup/xml"
)

// Auto asks for an incremental if a usable base exists, else for a full.
const Auto manifest.Kind = "auto"

// Wanted is what a point is wanted to be.
type Wanted struct {
	Domain string
	Kind   manifest.Kind // full, inc, diff, copy or Auto
	// Since names the point to start from, for inc and diff; "" chooses.
	Since string
	// Disks are the targets to copy; empty means all that can be copied. Exclude are the
	// targets to leave out.
	Disks, Exclude []string
	// Fallback is for disks whose bitmap cannot be used; "" is FallbackRescan.
	Fallback Fallback
	// MaxChain is how many images a chain may have: auto then begins a new one,
	// inc and diff warn. 0 is [DefaultMaxChain].
	MaxChain int
	// FullEvery is how long ago a chain may have been read in full: auto then begins a new
	// one. The zero value is no limit.
	FullEvery retention.Span
	// Synthetic makes auto end a chain with an inc that is to be made standalone
	// (Plan.Standalone) instead of a full.
	Synthetic bool
}

// word is the domain's name, quoted for a command line.
func (w Wanted) word() string { return manifest.ShellWord(w.Domain) }

// Validate checks what can be checked without looking at the domain and returns
// a fail.Usage.
func (w Wanted) Validate() error {
	switch {
	case !slices.Contains([]manifest.Kind{manifest.KindFull, manifest.KindInc, manifest.KindDiff, manifest.KindCopy, Auto}, w.Kind):
		return fail.Errorf(fail.Usage, "virtbackup --help", "unknown kind of backup %q", w.Kind)
	case w.Since != "" && w.Kind != manifest.KindInc && w.Kind != manifest.KindDiff:
		return fail.Errorf(fail.Usage, "virtbackup inc and virtbackup diff have it", "a %s backup has no --since", w.Kind)
	case (!w.FullEvery.IsZero() || w.Synthetic) && w.Kind != Auto:
		return fail.Errorf(fail.Usage, "virtbackup auto has them", "a %s backup has neither --full-every nor --synthetic", w.Kind)
	case w.MaxChain < 0:
		return fail.Errorf(fail.Usage, "--max-chain 200", "a chain of %d images is impossible", w.MaxChain)
	}
	if err := w.Fallback.validate(); err != nil {
		return err
	}
	for _, target := range w.Disks {
		if slices.Contains(w.Exclude, target) {
			return fail.Errorf(fail.Usage, "leave out one of --disk and --exclude", "disk %s is both chosen and excluded", target)
		}
	}
	return nil
}

func (w Wanted) chooses(target string) bool {
	return !slices.Contains(w.Exclude, target) && (len(w.Disks) == 0 || slices.Contains(w.Disks, target))
}

// Targets names those of a domain's disks that a plan will have.
func (w Wanted) Targets(disks []xml.Disk) (targets []string) {
	for _, d := range disks {
		if d.Unfit() == "" && w.chooses(d.Target) {
			targets = append(targets, d.Target)
		}
	}
	return targets
}
