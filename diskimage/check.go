package diskimage

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/qcow2/locate"
)

// Check reads every byte of an image, but for what was proven before, and of
// its hash list once, and compares them with each other and with the manifest, as
// hashlist.Check does. Damage found is not an error; the error says why there
// could be no check: ctx was cancelled, or files may not be read by this user.
func Check(ctx context.Context, l Link, o hashlist.CheckOptions) ([]damage.Place, error) {
	c := &imageCheck{link: l, point: l.Point, disk: l.Disk}
	if err := c.run(ctx, o); err != nil {
		return nil, fmt.Errorf("check %s: %w", c.name(l.Disk.Image), err)
	}
	if o.Proven != nil && damage.ErrorOf(c.damage) != nil {
		// Ranges that were proven before count as what the list on disk says, which may
		// be damaged by now: a check of everything finds out.
		o.Proven = nil
		return Check(ctx, l, o)
	}
	return c.damage, nil
}

// imageCheck is the check of one image with its hash list.
type imageCheck struct {
	link   Link
	point  manifest.Manifest
	disk   manifest.Disk
	part   func(index int64) bool // nil: all of it
	damage []damage.Place
	listed bool // where there is a part
}

// CheckPart is Check of the ranges of an image for whose indices part returns true, as
// hashlist.CheckPart does it, and with its listed.
func CheckPart(ctx context.Context, l Link, part func(index int64) bool, o hashlist.CheckOptions) (found []damage.Place, listed bool, err error) {
	c := &imageCheck{link: l, point: l.Point, disk: l.Disk, part: part}
	if err := c.run(ctx, o); err != nil {
		return nil, false, fmt.Errorf("check %s: %w", c.name(l.Disk.Image), err)
	}
	return c.damage, c.listed, nil
}

func (c *imageCheck) run(ctx context.Context, o hashlist.CheckOptions) error {
	list, closeList, err := c.openList()
	if err != nil {
		return err
	}
	defer closeList()
	if o.Progress != nil && list.ReaderAt != nil {
		o.Progress(list.Size)
	}
	f, err := localfile.OpenRegular(c.link.Path)
	if err != nil {
		if localfile.CannotCheck(err) {
			return err
		}
		c.imageDamage(qcow2.Range{Length: c.disk.ImageBytes}, localfile.Reason(err), nil, true)
		c.listed = true // it is not what is damaged
		return nil
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	reader, err := directio.NewReader(f)
	if err != nil {
		return err
	}
	image := hashlist.ImageFile{Name: nameOf(c.point, c.disk, c.disk.Image), PieceReader: reader, Size: info.Size()}
	var found []hashlist.Finding
	if c.part == nil {
		found, err = hashlist.Check(ctx, image, list, listOf(c.disk), o)
	} else {
		found, c.listed, err = hashlist.CheckPart(ctx, image, list, listOf(c.disk), c.part, o)
	}
	if err != nil {
		return err
	}
	c.report(found)
	return nil
}

// openList opens the hash list. That it is not there is no error.
func (c *imageCheck) openList() (list hashlist.ListFile, closeList func(), err error) {
	f, err := localfile.OpenRegular(c.link.HashesPath())
	if err != nil && localfile.CannotCheck(err) {
		return hashlist.ListFile{}, nil, err
	}
	if err != nil {
		return hashlist.ListFile{Missing: localfile.Reason(err)}, func() {}, nil
	}
	info, err := f.Stat()
	if err != nil {
		return hashlist.ListFile{}, nil, errors.Join(err, f.Close())
	}
	return hashlist.ListFile{ReaderAt: f, Size: info.Size()}, func() { f.Close() }, nil
}

// report adds what was found as places in the repository, with the parts of the disk that
// lie there.
func (c *imageCheck) report(found []hashlist.Finding) {
	var broken []hashlist.Finding
	for _, f := range found {
		switch {
		case f.InList:
			c.add(damage.Place{File: c.name(c.disk.HashesFile()), Offset: f.Offset, Length: f.Length, What: f.What, Harmless: true})
		case f.Unused:
			c.add(damage.Place{File: c.name(c.disk.Image), Offset: f.Offset, Length: f.Length, What: f.What, Harmless: true})
		default:
			broken = append(broken, f)
		}
	}
	disk, ok := c.locate(broken)
	for i, f := range broken {
		if ok {
			c.imageDamage(qcow2.Range(f.Range), f.What, disk[i], false)
		} else {
			c.imageDamage(qcow2.Range(f.Range), f.What, nil, true)
		}
	}
}

// locate finds the ranges of the disk that lie in the spans of the image. ok is
// false if the image itself does not say so any more.
func (c *imageCheck) locate(spans []hashlist.Finding) (disk [][]qcow2.Range, ok bool) {
	if len(spans) == 0 || !sortedApart(spans) {
		return nil, false
	}
	f, err := localfile.OpenRegular(c.link.Path) // without O_DIRECT
	if err != nil {
		return nil, false
	}
	defer f.Close()
	header, err := qcow2.ReadHeader(f)
	if err != nil || compareHeader("", header, c.disk) != nil {
		return nil, false
	}
	var parts []qcow2.Range
	for _, s := range spans {
		parts = append(parts, qcow2.Range(s.Range))
	}
	disk, ok, err = locate.Disk(f, header, parts)
	return disk, ok && err == nil
}

func (c *imageCheck) add(d damage.Place) {
	d.Domain, d.Point, d.Disk = c.point.Domain, c.point.ID, c.disk.Target
	c.damage = append(c.damage, d)
}

func (c *imageCheck) imageDamage(at qcow2.Range, what string, guest []qcow2.Range, whole bool) {
	c.add(damage.Place{File: c.name(c.disk.Image), Offset: at.Offset, Length: at.Length, What: what, Guest: guest, WholeDisk: whole})
}

func (c *imageCheck) name(file string) string {
	return filepath.Join(c.point.Domain, c.point.ID, file)
}

// sortedApart tells whether spans are in order and do not overlap.
func sortedApart(spans []hashlist.Finding) bool {
	end := int64(0)
	for _, s := range spans {
		if s.Offset < end {
			return false
		}
		end = s.Offset + s.Length
	}
	return true
}

// listOf says how the hash list of a disk's image was written.
func listOf(d manifest.Disk) hashlist.List {
	l := hashlist.List{Length: d.ImageBytes, Range: d.HashRange, Digest: d.Hashes}
	if l.Range == 0 {
		l.Range = hashlist.FirstRangeLength
	}
	return l
}

// nameOf is what messages call a file of a disk.
func nameOf(m manifest.Manifest, d manifest.Disk, file string) string {
	return fmt.Sprintf("%s (disk %s)", filepath.Join(m.Domain, m.ID, file), d.Target)
}
