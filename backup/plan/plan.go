// Package plan decides what a run copies, disk by disk, and why: full or incremental, since
// which point, chained onto which image. It is pure: it asks neither libvirt nor the
// repository.
package plan

import (
	"fmt"
	"slices"
	"time"

	"github.com/virtbackup/virtbackup/checkpoint"
	"github.com/virtbackup/virtbackup/diskimage"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/source"
	"github.com/virtbackup/virtbackup/xml"
)

// State is the input of a plan: what libvirt and the repository say. Planning itself asks
// neither of them.
type State struct {
	Disks       []xml.Disk                // all disks of the domain
	Sizes       map[string]int64          // virtual size in bytes, by target
	Allocated   map[string]int64          // bytes that the image occupies on the host, by target
	Images      map[string][]source.Image // what each disk is stored in, backing files last, by target
	Checkpoints []checkpoint.Checkpoint   // all checkpoints of the domain, with sizes
	Points      []manifest.Manifest       // all listed points of the domain, oldest first
	Hidden      []manifest.Manifest       // those that were removed and may be parents, oldest first
	Dir         string                    // of the domain's points, absolute
	Next        int                       // number of the next point
	Identity    string                    // of the next point
	Now         time.Time                 // by the host's clock
	Damage      error                     // of the list of identities; nil if it is sound
}

// Plan says what a run will copy and why.
type Plan struct {
	ID         string
	Identity   string
	Kind       manifest.Kind      // full, inc, diff or copy
	Base       *manifest.Manifest // nil for a full or copy
	Checkpoint string             // to be created; "" none
	Disks      []Disk
	LeftOut    []manifest.LeftOut
	Gone       []string // disks of the base that the domain no longer has
	Why        string   // how auto chose
	Standalone string   // why the point is to be made standalone; "" if it is not
	Notes      []string
	Warnings   []string
}

// Disk says how one disk is copied.
type Disk struct {
	xml.Disk
	Incremental bool
	Rescan      bool   // read in full, compared with Parent: incremental without a bitmap
	Reason      string // why it is not copied as requested
	Since       string // checkpoint whose bitmap is read; "" for a full copy
	Parent      string // image of the base, relative to the point's directory
	Bitmap      bool   // the new checkpoint covers it
	Size        int64  // virtual, bytes
	// BaseSize is the disk's size at the base: no bitmap covers the part by which it has
	// grown since.
	BaseSize int64
	Expected int64  // bytes that the copy will read, as libvirt estimates it
	Measured bool   // Expected is the dirty data by block status, Zeros the dirty zeros
	Zeros    int64  // bytes
	SourceID string // of its image
	// BackingIDs are those of the backing files of its image, see [source.BackingIDs].
	BackingIDs []string
	Links      []diskimage.Link // the chain of Parent, once it has been checked
}

// Make decides what to do, disk by disk. It returns a fail.NotFound for a
// disk or base that does not exist and a fail.Usage for one that cannot be
// used.
func Make(w Wanted, s State) (Plan, error) {
	var p Plan
	chosen, err := p.choose(w, s)
	if err != nil {
		return Plan{}, err
	}
	if err := p.setKind(w, s, chosen); err != nil {
		return Plan{}, err
	}
	prefix := "check"
	if p.Kind == manifest.KindDiff || p.Kind == manifest.KindCopy {
		prefix = string(p.Kind)
	}
	p.ID, p.Identity = fmt.Sprintf("%s%d", prefix, s.Next), s.Identity
	p.planDisks(w, s, chosen)
	if err := p.boundChains(w, s, chosen); err != nil {
		return Plan{}, err
	}
	if err := p.Refuse(w); err != nil {
		return Plan{}, err
	}
	p.setCheckpoint()
	p.remark(s)
	return p, nil
}

// choose splits the disks into chosen ones and those left out.
func (p *Plan) choose(w Wanted, s State) ([]xml.Disk, error) {
	for _, target := range slices.Concat(w.Disks, w.Exclude) {
		if !slices.ContainsFunc(s.Disks, func(d xml.Disk) bool { return d.Target == target }) {
			return nil, fail.Errorf(fail.NotFound, "it has "+listTargets(s.Disks), "domain %s has no disk %q", w.Domain, target)
		}
	}
	var chosen []xml.Disk
	for _, d := range s.Disks {
		named := slices.Contains(w.Disks, d.Target)
		switch unfit := d.Unfit(); {
		case unfit != "" && named:
			return nil, fail.Errorf(fail.Usage, "leave out --disk "+d.Target, "disk %s of domain %s cannot be backed up: %s", d.Target, w.Domain, unfit)
		case unfit != "":
			p.LeftOut = append(p.LeftOut, manifest.LeftOut{Target: d.Target, Reason: unfit})
		case !w.chooses(d.Target):
			p.LeftOut = append(p.LeftOut, manifest.LeftOut{Target: d.Target, Reason: "not chosen"})
		default:
			chosen = append(chosen, d)
		}
	}
	if len(chosen) == 0 {
		return nil, fail.Errorf(fail.Usage, "a backup takes writable disks that are not empty or transient", "domain %s has no disk to back up: %s", w.Domain, describeLeftOut(p.LeftOut))
	}
	return chosen, nil
}

// Targets names the disks that are copied.
func (p *Plan) Targets() (targets []string) {
	for _, d := range p.Disks {
		targets = append(targets, d.Target)
	}
	return targets
}

func (p *Plan) setKind(w Wanted, s State, chosen []xml.Disk) error {
	p.Kind = w.Kind
	s.Disks = chosen // the base needs to fit these only
	switch w.Kind {
	case manifest.KindInc, manifest.KindDiff:
		base, err := findBase(w, s)
		p.Base = base
		return err
	case Auto:
		p.Kind, p.Base, p.Why = chooseKind(w, s, chosen)
	}
	return nil
}

// chooseKind chooses kind and base for auto, and says why.
func chooseKind(w Wanted, s State, chosen []xml.Disk) (manifest.Kind, *manifest.Manifest, string) {
	w.Kind = manifest.KindInc
	base, err := findBase(w, s)
	if err != nil {
		if len(s.Points) == 0 {
			return manifest.KindFull, nil, "full: the first point of this domain"
		}
		return manifest.KindFull, nil, "full: " + err.Error()
	}
	trial := Plan{Base: base}
	reason, rescan := "none of its disks can be incremental", false
	for _, d := range chosen {
		planned := trial.disk(w, d, s)
		if planned.Incremental {
			return manifest.KindInc, base, "inc: since " + base.ID
		}
		if planned.Rescan {
			rescan = true
		}
		reason = fmt.Sprintf("%s: %s", d.Target, planned.Reason)
	}
	if rescan {
		return manifest.KindInc, base, fmt.Sprintf("inc: compared with %s, as no bitmap says what changed since", base.ID)
	}
	return manifest.KindFull, nil, fmt.Sprintf("full: %s is no usable base (%s)", base.ID, reason)
}

// planDisks plans the chosen disks against the plan's base.
func (p *Plan) planDisks(w Wanted, s State, chosen []xml.Disk) {
	p.Disks = nil
	for _, d := range chosen {
		p.Disks = append(p.Disks, p.disk(w, d, s))
	}
}

func (p *Plan) disk(w Wanted, d xml.Disk, s State) Disk {
	plan := Disk{Disk: d, Bitmap: noBitmaps(d) == "", Size: s.Sizes[d.Target]}
	plan.Expected = min(plan.Size, s.Allocated[d.Target])
	if images := s.Images[d.Target]; len(images) > 0 {
		plan.SourceID, plan.BackingIDs = images[0].ID, source.BackingIDs(images)
	}
	if p.Base == nil {
		return plan
	}
	base, ok := p.Base.Disk(d.Target)
	if !ok {
		plan.Reason = fmt.Sprintf("point %s does not have this disk", p.Base.ID)
		return plan
	}
	if plan.Reason = p.whyNoBitmap(plan, base, s); plan.Reason != "" {
		plan.FallBack(w.Fallback, p.Base, base.Image)
		return plan
	}
	c, _ := sealedCheckpoint(s, p.Base)
	plan.Incremental, plan.Since = true, c.Name
	plan.Parent = manifest.ParentPath(p.Base.ID, base.Image)
	plan.BaseSize = base.VirtualSize
	plan.Expected = c.Size(d.Target)
	return plan
}

// noBitmaps says why a disk never has a usable bitmap; "" if it may have one.
func noBitmaps(d xml.Disk) string {
	switch {
	case d.Format != "qcow2": // of version 3: the others are "raw", "qcow2 v2", …
		return fmt.Sprintf("a %s image has no bitmaps", d.Format)
	case d.Shareable:
		return "it is shareable, and no bitmap records what other guests write"
	}
	return ""
}

// setCheckpoint names the new checkpoint, if the kind has one and a disk can have a
// bitmap: libvirt would also make a checkpoint without disks, which is useless.
func (p *Plan) setCheckpoint() {
	if p.Kind == manifest.KindDiff || p.Kind == manifest.KindCopy {
		for i := range p.Disks {
			p.Disks[i].Bitmap = false
		}
		return
	}
	if slices.ContainsFunc(p.Disks, func(d Disk) bool { return d.Bitmap }) {
		p.Checkpoint = manifest.CheckpointName(p.ID, p.Identity)
	}
}

// remark adds the notes and warnings that a reader of the report should see.
func (p *Plan) remark(s State) {
	for _, d := range p.Disks {
		p.remarkEncryption(d.Disk)
		switch {
		case p.turnedRaw(d.Disk):
			p.Warnings = append(p.Warnings, fmt.Sprintf("disk %s is %s now: %s", d.Target, d.Format, d.Reason))
		case d.Reason == "":
		case d.Reason == noBitmaps(d.Disk): // the same every time: list and show have it
		case d.Rescan:
			p.Warnings = append(p.Warnings, fmt.Sprintf("disk %s is read in full and compared with point %s: %s", d.Target, p.Base.ID, d.Reason))
		default:
			p.Warnings = append(p.Warnings, fmt.Sprintf("disk %s is copied in full: %s", d.Target, d.Reason))
		}
	}
	if p.Base == nil {
		p.foresee(s)
		return
	}
	for _, b := range p.Base.Disks {
		if !slices.ContainsFunc(s.Disks, func(d xml.Disk) bool { return d.Target == b.Target }) {
			p.Gone = append(p.Gone, b.Target)
			p.Notes = append(p.Notes, fmt.Sprintf("disk %s of point %s is gone from the domain", b.Target, p.Base.ID))
		}
	}
}

// foresee notes, in the first full, what incs of disks without bitmaps will cost.
func (p *Plan) foresee(s State) {
	if p.Kind != manifest.KindFull || len(s.Points) > 0 {
		return
	}
	for _, d := range p.Disks {
		if why := noBitmaps(d.Disk); why != "" {
			p.Notes = append(p.Notes, fmt.Sprintf("an inc will read all of disk %s, and store what differs: %s", d.Target, why))
		}
	}
}

// remarkEncryption warns that a disk that is encrypted at its source is stored in the
// clear. It warns only in the first point of a chain; show says it for every point.
func (p *Plan) remarkEncryption(d xml.Disk) {
	if !d.Encrypted {
		return
	}
	message := fmt.Sprintf("disk %s is encrypted at its source, and stored in the clear: QEMU decrypts what is read, and whoever can read the repository can read it", d.Target)
	if p.Base != nil {
		if base, ok := p.Base.Disk(d.Target); ok && base.SourceEncrypted {
			return
		}
	}
	p.Warnings = append(p.Warnings, message)
}

// turnedRaw reports whether a disk could have bitmaps when the base was made, but no
// longer can.
func (p *Plan) turnedRaw(d xml.Disk) bool {
	if p.Base == nil || d.Format == "qcow2" {
		return false
	}
	base, ok := p.Base.Disk(d.Target)
	return ok && base.SourceFormat == "qcow2"
}

func listTargets(disks []xml.Disk) string {
	s := ""
	for i, d := range disks {
		if i > 0 {
			s += ", "
		}
		s += d.Target
	}
	return s
}

func describeLeftOut(all []manifest.LeftOut) string {
	s := ""
	for i, l := range all {
		if i > 0 {
			s += ", "
		}
		s += l.Target + " is " + l.Reason
	}
	return s
}
