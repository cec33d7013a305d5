package backup

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/virtbackup/virtbackup/checkpoint"
	"github.com/virtbackup/virtbackup/diskimage"
	"github.com/virtbackup/virtbackup/instants"
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
	Disks      []DiskPlan
	LeftOut    []manifest.LeftOut
	Gone       []string // disks of the base that the domain no longer has
	Why        string   // how auto chose
	Standalone string   // why the point is to be made standalone; "" if it is not
	Notes      []string
	Warnings   []string
}

// DiskPlan says how one disk is copied.
type DiskPlan struct {
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
	Expected int64            // bytes that the copy will read, as libvirt estimates it
	measured bool             // Expected is the dirty data by block status, zeros the dirty zeros
	zeros    int64            // bytes
	SourceID string           // of its image
	base     []diskimage.Link // the chain of Parent, once it has been checked
}

// MakePlan decides what to do, disk by disk. It returns a fail.NotFound for a
// disk or base that does not exist and a fail.Usage for one that cannot be
// used.
func MakePlan(r Request, s State) (Plan, error) {
	var p Plan
	chosen, err := p.choose(r, s)
	if err != nil {
		return Plan{}, err
	}
	if err := p.setKind(r, s, chosen); err != nil {
		return Plan{}, err
	}
	prefix := "check"
	if p.Kind == manifest.KindDiff || p.Kind == manifest.KindCopy {
		prefix = string(p.Kind)
	}
	p.ID, p.Identity = fmt.Sprintf("%s%d", prefix, s.Next), s.Identity
	p.planDisks(r, s, chosen)
	if err := p.boundChains(r, s, chosen); err != nil {
		return Plan{}, err
	}
	if err := p.refuse(r); err != nil {
		return Plan{}, err
	}
	p.setCheckpoint()
	p.remark(s)
	return p, nil
}

// choose splits the disks into chosen ones and those left out.
func (p *Plan) choose(r Request, s State) ([]xml.Disk, error) {
	for _, target := range slices.Concat(r.Disks, r.Exclude) {
		if !slices.ContainsFunc(s.Disks, func(d xml.Disk) bool { return d.Target == target }) {
			return nil, fail.Errorf(fail.NotFound, "it has "+listTargets(s.Disks), "domain %s has no disk %q", r.Domain, target)
		}
	}
	var chosen []xml.Disk
	for _, d := range s.Disks {
		named := slices.Contains(r.Disks, d.Target)
		switch unfit := d.Unfit(); {
		case unfit != "" && named:
			return nil, fail.Errorf(fail.Usage, "leave out --disk "+d.Target, "disk %s of domain %s cannot be backed up: %s", d.Target, r.Domain, unfit)
		case unfit != "":
			p.LeftOut = append(p.LeftOut, manifest.LeftOut{Target: d.Target, Reason: unfit})
		case !r.chooses(d.Target):
			p.LeftOut = append(p.LeftOut, manifest.LeftOut{Target: d.Target, Reason: "not chosen"})
		default:
			chosen = append(chosen, d)
		}
	}
	if len(chosen) == 0 {
		return nil, fail.Errorf(fail.Usage, "a backup takes writable disks that are not empty or transient", "domain %s has no disk to back up: %s", r.Domain, describeLeftOut(p.LeftOut))
	}
	return chosen, nil
}

func (r Request) chooses(target string) bool {
	return !slices.Contains(r.Exclude, target) && (len(r.Disks) == 0 || slices.Contains(r.Disks, target))
}

// chosenTargets names the disks that a plan will have.
func chosenTargets(r Request, disks []xml.Disk) (targets []string) {
	for _, d := range disks {
		if d.Unfit() == "" && r.chooses(d.Target) {
			targets = append(targets, d.Target)
		}
	}
	return targets
}

func (p *Plan) targets() (targets []string) {
	for _, d := range p.Disks {
		targets = append(targets, d.Target)
	}
	return targets
}

func (p *Plan) setKind(r Request, s State, chosen []xml.Disk) error {
	p.Kind = r.Kind
	s.Disks = chosen // the base needs to fit these only
	switch r.Kind {
	case manifest.KindInc, manifest.KindDiff:
		base, err := findBase(r, s)
		p.Base = base
		return err
	case Auto:
		p.Kind, p.Base, p.Why = chooseKind(r, s, chosen)
	}
	return nil
}

// chooseKind chooses kind and base for auto, and says why.
func chooseKind(r Request, s State, chosen []xml.Disk) (manifest.Kind, *manifest.Manifest, string) {
	r.Kind = manifest.KindInc
	base, err := findBase(r, s)
	if err != nil {
		if len(s.Points) == 0 {
			return manifest.KindFull, nil, "full: the first point of this domain"
		}
		return manifest.KindFull, nil, "full: " + err.Error()
	}
	trial := Plan{Base: base}
	reason, rescan := "none of its disks can be incremental", false
	for _, d := range chosen {
		planned := trial.disk(r, d, s)
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

// findBase returns the point that an inc or diff of the state's disks starts from:
// the newest with a checkpoint where one of them can have a bitmap, else the newest
// that they can be compared with.
func findBase(r Request, s State) (*manifest.Manifest, error) {
	if r.Since != "" {
		return namedBase(r, s)
	}
	var second *manifest.Manifest
	bitmaps := slices.ContainsFunc(s.Disks, func(d xml.Disk) bool { return noBitmaps(d) == "" })
	for i := len(s.Points) - 1; i >= 0; i-- {
		m := &s.Points[i]
		if !m.IsBase() || r.Kind == manifest.KindDiff && !s.beginsChain(m) {
			continue
		}
		if _, ok := sealedCheckpoint(s, m); ok && bitmaps {
			return m, nil
		}
		if second == nil && canCompare(s, m) {
			second = m
		}
	}
	if second != nil {
		return second, nil
	}
	what := "full or inc"
	if r.Kind == manifest.KindDiff {
		what = "full"
	}
	return nil, fail.Errorf(fail.NotFound, "virtbackup full "+r.word(), "domain %s has no %s of these disks to start from", r.Domain, what)
}

// beginsChain tells whether a point is a full, or all that it is chained onto was removed.
func (s State) beginsChain(m *manifest.Manifest) bool {
	if m.Kind == manifest.KindFull {
		return true
	}
	listed := func(above manifest.Manifest) bool {
		return slices.ContainsFunc(s.Points, func(p manifest.Manifest) bool { return p.ID == above.ID })
	}
	above := manifest.Chain(slices.Concat(s.Points, s.Hidden), *m)[1:]
	return len(above) > 0 && !slices.ContainsFunc(above, listed)
}

func namedBase(r Request, s State) (*manifest.Manifest, error) {
	point, err := resolveBase(r, s)
	if err != nil {
		return nil, err
	}
	m := &point
	if !m.IsBase() {
		return nil, fail.Errorf(fail.Usage, "virtbackup list "+r.word()+" shows the points; a full or inc can be a base",
			"point %s is a %s and has no checkpoint: it cannot be a base", m.ID, m.Kind)
	}
	if canCompare(s, m) {
		return m, nil
	}
	if _, ok := sealedCheckpoint(s, m); !ok {
		return nil, fail.Errorf(fail.NotFound, fmt.Sprintf("virtbackup list %s shows the points; virtbackup full %s starts a new chain", r.word(), r.word()),
			"point %s has none of these disks: there is nothing to compare them with", m.ID)
	}
	return m, nil
}

// resolveBase finds the point that --since names. An id may name any point; a time, or
// latest, finds only points that can be a base.
func resolveBase(r Request, s State) (manifest.Manifest, error) {
	since := strings.TrimPrefix(r.Since, r.Domain+"@")
	if _, _, err := manifest.ParsePointID(since); err == nil {
		if slices.ContainsFunc(s.Hidden, func(m manifest.Manifest) bool { return m.ID == since }) {
			return manifest.Manifest{}, fail.Errorf(fail.NotFound, "virtbackup prune "+r.word()+" --undo "+since+" brings it back", "point %s of domain %s was removed", since, r.Domain)
		}
		return manifest.Resolve(r.Domain, s.Points, since)
	}
	bases := slices.DeleteFunc(slices.Clone(s.Points), func(m manifest.Manifest) bool { return !m.IsBase() })
	if len(bases) == 0 {
		return manifest.Manifest{}, fail.Errorf(fail.NotFound, "virtbackup full "+r.word()+" makes one", "domain %s has no point that can be a base", r.Domain)
	}
	return manifest.Resolve(r.Domain, bases, since)
}

// sealedCheckpoint returns libvirt's checkpoint of a point, if libvirt has it and it has
// the identity of the point.
func sealedCheckpoint(s State, m *manifest.Manifest) (checkpoint.Checkpoint, bool) {
	if m.Checkpoint == "" || m.Identity == "" { // points of format 1 are never bases by name
		return checkpoint.Checkpoint{}, false
	}
	c, ok := checkpoint.Find(s.Checkpoints, m.Checkpoint)
	return c, ok && c.Base() && c.Instant.Identity == m.Identity && c.Instant.Point == m.ID
}

// noCheckpoint says why libvirt has no usable checkpoint of a point.
func noCheckpoint(s State, m *manifest.Manifest) string {
	c, there := checkpoint.Find(s.Checkpoints, m.Checkpoint)
	switch {
	case m.Checkpoint == "":
		return fmt.Sprintf("point %s has no checkpoint", m.ID)
	case m.Identity == "":
		return fmt.Sprintf("point %s was made by a version that knew checkpoints by their names alone", m.ID)
	case s.Damage != nil:
		return fmt.Sprintf("it is unknown whether checkpoint %s is ours: %v", m.ID, s.Damage)
	case there && !c.Ours:
		return fmt.Sprintf("checkpoint %s has our marks, but this repository does not know its identity: the point, or the list of identities, came here from a copy", m.ID)
	case there && c.Instant.State == instants.Retired:
		return fmt.Sprintf("checkpoint %s is to be deleted", m.ID)
	case there:
		return fmt.Sprintf("checkpoint %s is of another instant than point %s", m.ID, m.ID)
	}
	return fmt.Sprintf("checkpoint %s is gone from libvirt (deleted, or older than those that --keep-checkpoints keeps)", m.ID)
}

// planDisks plans the chosen disks against the plan's base.
func (p *Plan) planDisks(r Request, s State, chosen []xml.Disk) {
	p.Disks = nil
	for _, d := range chosen {
		p.Disks = append(p.Disks, p.disk(r, d, s))
	}
}

func (p *Plan) disk(r Request, d xml.Disk, s State) DiskPlan {
	plan := DiskPlan{Disk: d, Bitmap: noBitmaps(d) == "", Size: s.Sizes[d.Target]}
	plan.Expected = min(plan.Size, s.Allocated[d.Target])
	if images := s.Images[d.Target]; len(images) > 0 {
		plan.SourceID = images[0].ID
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
		plan.fallBack(r.Fallback, p.Base, base.Image)
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
	if slices.ContainsFunc(p.Disks, func(d DiskPlan) bool { return d.Bitmap }) {
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
