package verify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/diskimage"
	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/internal/bitset"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/qcow2/locate"
	"github.com/virtbackup/virtbackup/repository"
)

// smallExtra is how large one of a point's extras may be, in bytes, for every run to read it:
// the UEFI variables and firmware of a guest are, kernels and initial RAM disks are not.
const smallExtra = 4 << 20

// checkImage compares an image with its hash list: all of it, or what the request asks for.
func (d *domainRun) checkImage(ctx context.Context, m manifest.Manifest, disk manifest.Disk) (found []damage.Place, err error) {
	link, options := d.repo.Link(m, disk), hashlist.CheckOptions{Progress: d.progress, Misread: d.warn}
	if !d.Quick && d.Sample == 0 {
		found, err = diskimage.Check(ctx, link, options)
		d.seeImage(m, disk, allParts(), found, err)
		return found, err
	}
	var parts []int
	if !d.Quick {
		parts = d.known.Dates(m.ID, disk.Image).Oldest(d.Sample)
	}
	ranges := rangesOf(link, parts)
	found, listed, err := diskimage.CheckPart(ctx, link, ranges.Has, options)
	if err == nil && !listed && !d.Quick { // it proves nothing; the image itself may
		parts = allParts()
		found, err = diskimage.Check(ctx, link, options)
	}
	d.seeImage(m, disk, parts, found, err)
	return found, err
}

func allParts() []int {
	parts := make([]int, repository.Parts)
	for i := range parts {
		parts[i] = i
	}
	return parts
}

// partOf are the indices of the ranges, of n, that a part of an image has: first up to end. Each
// is in one part, and the parts follow each other.
func partOf(part int, n int64) (first, end int64) {
	whole, rest := n/repository.Parts, n%repository.Parts // n times 100 may not fit
	at := func(i int64) int64 { return whole*i + rest*i/repository.Parts }
	return at(int64(part)), at(int64(part) + 1)
}

// rangesOf are the ranges of an image that have its tables, and those of the parts.
func rangesOf(l diskimage.Link, parts []int) *bitset.Set {
	set, list := &bitset.Set{}, l.List()
	for _, part := range parts {
		for i, end := partOf(part, list.Ranges()); i < end; i++ {
			set.Add(i)
		}
	}
	add := func(r qcow2.Range) {
		if r.Offset < 0 || r.Offset >= list.Length {
			return
		}
		for i := r.Offset / list.Range; i*list.Range < min(r.Offset+r.Length, list.Length); i++ {
			set.Add(i)
		}
	}
	add(qcow2.Range{Length: 1}) // the header, if it cannot be read now
	f, err := localfile.OpenRegular(l.Path)
	if err != nil {
		return set // the check says why
	}
	defer f.Close()
	if h, err := qcow2.ReadHeader(f); err == nil {
		locate.Tables(f, h, add)
	}
	return set
}

// seeImage notes which parts of an image are proven.
func (d *domainRun) seeImage(m manifest.Manifest, disk manifest.Disk, parts []int, found []damage.Place, err error) {
	if err != nil {
		return
	}
	of := d.repo.Link(m, disk).List()
	var wrong []int // also those that were not asked for: a table, or the end, is there
	for part := range repository.Parts {
		first, end := partOf(part, of.Ranges())
		if slices.ContainsFunc(found, func(x damage.Place) bool {
			return !x.Harmless && x.Offset < end*of.Range && x.Offset+x.Length > first*of.Range
		}) {
			wrong = append(wrong, part)
		}
	}
	list := func(x damage.Place) bool { return filepath.Base(x.File) == disk.HashesFile() }
	if len(wrong) > 0 && slices.ContainsFunc(found, list) { // neither tells where the other is right
		wrong = allParts()
	}
	d.see(m.ID, disk.Image, parts, repository.Right)
	d.see(m.ID, disk.Image, wrong, repository.Wrong)
}

// seeExtra notes whether one of a point's extras, which was read or looked at, is right.
func (d *domainRun) seeExtra(id, file string, read bool, found []damage.Place) {
	switch {
	case len(found) > 0:
		d.see(id, file, allParts(), repository.Wrong)
	case read && !d.Quick: // which proves nothing
		d.see(id, file, allParts(), repository.Right)
	}
}

// see notes what was seen of parts of a file.
func (d *domainRun) see(id, file string, parts []int, look repository.Look) {
	if len(parts) == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.seen[id] == nil {
		d.seen[id] = map[string][repository.Parts]repository.Look{}
	}
	looks := d.seen[id][file]
	for _, i := range parts {
		looks[i] = look
	}
	d.seen[id][file] = looks
}

// seeStructure notes what was found of the structure of a disk's image.
func (d *domainRun) seeStructure(id, target string, look repository.Look) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.built[id] == nil {
		d.built[id] = map[string]repository.Look{}
	}
	d.built[id][target] = look
}

// leftExtras are the large extras of a point that are not to be read: all in a quick run, and
// in a sample all but those read longest ago.
func (d *domainRun) leftExtras(m manifest.Manifest) map[string]bool {
	left := map[string]bool{}
	if !d.Quick && d.Sample == 0 {
		return left
	}
	var large []manifest.Extra
	for _, e := range m.Extras {
		if e.Size > smallExtra {
			large = append(large, e)
		}
	}
	read := func(e manifest.Extra) int64 { return d.known.Dates(m.ID, e.File).ReadAt(0) }
	slices.SortStableFunc(large, func(a, b manifest.Extra) int { return cmp.Compare(read(a), read(b)) })
	for _, e := range large[(len(large)*d.Sample+99)/100:] {
		left[e.File] = true
	}
	return left
}

// checkSize finds that a file that is not read is missing, or has another size.
func checkSize(dir string, m manifest.Manifest, e manifest.Extra) []damage.Place {
	place := damage.Place{Domain: m.Domain, Point: m.ID, File: filepath.Join(m.Domain, m.ID, e.File)}
	switch info, err := os.Lstat(filepath.Join(dir, e.File)); {
	case errors.Is(err, fs.ErrNotExist):
		place.What = "missing"
	case err != nil:
		place.What = localfile.Reason(err)
	case !info.Mode().IsRegular():
		place.What = "not a regular file"
	case info.Size() != e.Size:
		place.What = fmt.Sprintf("has %d bytes, not %d", info.Size(), e.Size)
	default:
		return nil
	}
	return []damage.Place{place}
}
