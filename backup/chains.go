package backup

import (
	"fmt"
	"path"

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

func (r Request) maxChain() int {
	if r.MaxChain == 0 {
		return DefaultMaxChain
	}
	return r.MaxChain
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
		images := append([]string{path.Join(p.ID, d.Target+".qcow2")}, manifest.ChainImages(s.Points, p.Base.ID, d.Target)...)
		all = append(all, diskChain{d.Target, len(images), manifest.JoinedLength(s.Dir, images)})
	}
	return all
}

// boundChains limits the length of chains: auto begins a new one, inc and diff
// warn, and refuse a chain that qemu-img could not open.
func (p *Plan) boundChains(r Request, s State, chosen []xml.Disk) error {
	for _, c := range p.chains(s) {
		tooLong := c.joined > manifest.MaxJoined
		switch {
		case !tooLong && c.images <= r.maxChain():
		case r.Kind == Auto && tooLong:
			p.startChain(r, s, chosen, fmt.Sprintf("full: with another image the chain of disk %s would be too long for qemu-img to open", c.target))
			return nil
		case r.Kind == Auto:
			p.startChain(r, s, chosen, fmt.Sprintf("full: the chain of disk %s has %d images as of %s, and may have %d (--max-chain)", c.target, c.images-1, p.Base.ID, r.maxChain()))
			return nil
		case tooLong:
			return fail.WithHint(fmt.Errorf("domain %s: the chain of disk %s would have %d images, and qemu-img could not open it: "+
				"the name that it joins from them would have %d bytes, more than %d", r.Domain, c.target, c.images, c.joined, manifest.MaxJoined),
				"virtbackup full %s starts a new chain", r.word())
		default:
			p.Warnings = append(p.Warnings, fmt.Sprintf("the chain of disk %s has %d images with %s, more than %d (--max-chain): virtbackup full %s starts a new one",
				c.target, c.images, p.ID, r.maxChain(), r.word()))
		}
	}
	return nil
}

// startChain plans a full instead of an inc.
func (p *Plan) startChain(r Request, s State, chosen []xml.Disk, why string) {
	p.Kind, p.Base, p.Why, p.Warnings = manifest.KindFull, nil, why, nil
	p.planDisks(r, s, chosen)
}
