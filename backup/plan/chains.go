package plan

import (
	"cmp"
	"fmt"
	"path"
	"slices"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/xml"
)

// DefaultMaxChain is how many images a chain may have before a new one should
// begin. Whoever reads a point opens every image of its chain, and looks up in it each
// cluster that the images above lack. With the default directory QEMU itself can open
// some 340 images (see manifest.MaxJoined). 200 is half a year of nights, and leaves
// room for someone who acts on the warning a month later.
const DefaultMaxChain = 200

func (w Wanted) maxChain() int {
	if w.MaxChain == 0 {
		return DefaultMaxChain
	}
	return w.MaxChain
}

// diskChain is the chain of one disk including the planned point.
type diskChain struct {
	target string
	images int
	joined int // bytes of the longest name that QEMU joins from its images
}

// chains returns the chains of the disks that are chained onto the base.
func (p *Plan) chains(s State) (all []diskChain) {
	for _, d := range p.Disks {
		if d.Parent == "" {
			continue
		}
		images := append([]string{path.Join(p.ID, d.Target+".qcow2")}, manifest.ChainImages(slices.Concat(s.Points, s.Hidden), p.Base.ID, d.Target)...)
		all = append(all, diskChain{d.Target, len(images), manifest.JoinedLength(s.Dir, images)})
	}
	return all
}

// boundChains limits the length of chains: auto ends one, inc and diff warn, and refuse a
// chain that qemu-img could not open.
func (p *Plan) boundChains(w Wanted, s State, chosen []xml.Disk) error {
	chains := p.chains(s)
	if w.Kind == Auto {
		p.endChain(w, s, chosen, chains)
		return nil
	}
	for _, c := range chains {
		switch {
		case c.joined > manifest.MaxJoined:
			return fail.WithHint(fmt.Errorf("domain %s: the chain of disk %s would have %d images, and qemu-img could not open it: "+
				"the name that it joins from them would have %d bytes, more than %d", w.Domain, c.target, c.images, c.joined, manifest.MaxJoined),
				"virtbackup full %s starts a new chain", w.word())
		case c.images > w.maxChain():
			p.Warnings = append(p.Warnings, fmt.Sprintf("the chain of disk %s has %d images with %s, more than %d (--max-chain): virtbackup full %s starts a new one",
				c.target, c.images, p.ID, w.maxChain(), w.word()))
		}
	}
	return nil
}

// endChain ends a chain that is too long or too old: with a full, or, if asked for, with an
// inc that is to be made standalone. One that qemu-img could not open ends with a full.
func (p *Plan) endChain(w Wanted, s State, chosen []xml.Disk, chains []diskChain) {
	if p.Base == nil {
		return
	}
	for _, c := range chains {
		if c.joined > manifest.MaxJoined {
			p.startChain(w, s, chosen, fmt.Sprintf("full: with another image the chain of disk %s would be too long for qemu-img to open", c.target))
			return
		}
	}
	switch why := cmp.Or(p.tooLong(w, chains), p.tooOld(w, s)); {
	case why == "":
	case w.Synthetic:
		p.Standalone, p.Why = why, p.Why+", to be made standalone: "+why
	default:
		p.startChain(w, s, chosen, "full: "+why)
	}
}

// tooLong says which chain has as many images as it may have, "" if none has.
func (p *Plan) tooLong(w Wanted, chains []diskChain) string {
	for _, c := range chains {
		if c.images > w.maxChain() {
			return fmt.Sprintf("the chain of disk %s has %d images as of %s, and may have %d (--max-chain)", c.target, c.images-1, p.Base.ID, w.maxChain())
		}
	}
	return ""
}

// tooOld says that the base's chain was read in full, or made standalone, too long ago, "" if
// it was not. A clock that is ahead only for this run leads to one full too many, and one
// that is behind to one that comes later.
func (p *Plan) tooOld(w Wanted, s State) string {
	chain := manifest.Chain(slices.Concat(s.Points, s.Hidden), *p.Base)
	root := chain[len(chain)-1]
	if w.FullEvery.IsZero() || root.Parent != "" { // the chain is broken: no parent can be used
		return ""
	}
	read, what := root.ReadInFull(), "read in full"
	if w.Synthetic {
		read, what = root.Time, "full"
	}
	if read.After(s.Now) { // by a clock that was ahead: that was before the others of its chain
		for _, m := range chain {
			if m.Time.Before(read) {
				read = m.Time
			}
		}
	}
	if read.After(w.FullEvery.Before(s.Now)) {
		return ""
	}
	return fmt.Sprintf("the chain of %s was last %s %s, more than %s ago (--full-every)", p.Base.ID, what, manifest.TimeText(read), w.FullEvery)
}

// startChain plans a full instead of an inc.
func (p *Plan) startChain(w Wanted, s State, chosen []xml.Disk, why string) {
	p.Kind, p.Base, p.Why, p.Warnings = manifest.KindFull, nil, why, nil
	p.planDisks(w, s, chosen)
}
