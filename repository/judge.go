package repository

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/qcow2"
)

// span is a place in a file and what is wrong there.
type span struct {
	qcow2.Range
	what string
}

func addSpan(spans []span, place qcow2.Range, what string) []span {
	if n := len(spans); n > 0 {
		last := &spans[n-1]
		adjacent := last.Offset+last.Length == place.Offset && last.what == what
		if adjacent || n >= mostSpans {
			last.Length = place.Offset + place.Length - last.Offset
			return spans
		}
	}
	return append(spans, span{place, what})
}

// judge says what is damaged once all has been read.
func (c *imageCheck) judge() {
	for { // a truncated image leaves hashes over
		sum, ok := c.list.next()
		if !ok {
			break
		}
		c.stored.Write(sum[:])
	}
	sound := c.size >= c.disk.ImageBytes && len(c.failed) == 0 && digest.Text(c.computed.Sum(nil)) == c.disk.Hashes
	if listed := digest.Text(c.stored.Sum(nil)); c.list.complete() && listed == c.disk.Hashes {
		c.list.checkTree(listed)
	}
	listed := c.list.complete() && digest.Text(c.stored.Sum(nil)) == c.disk.Hashes
	if c.size > c.disk.ImageBytes {
		c.add(Damage{File: c.name(c.disk.Image), Disk: c.disk.Target, Offset: c.disk.ImageBytes, Length: c.size - c.disk.ImageBytes,
			What: "was appended later; nothing reads it", Harmless: true})
	}
	if sound {
		c.judgeList(listed)
		return
	}
	c.judgeImage(listed)
}

// judgeList says where the list on disk is damaged, the image being sound.
func (c *imageCheck) judgeList(listed bool) {
	const harmless = "; the image it belongs to is sound by the manifest"
	for _, s := range c.list.spans {
		c.listDamage(s.Range, s.what+harmless)
	}
	for _, s := range c.differ {
		start := c.layout.hashOffset(s.Offset)
		at := qcow2.Range{Offset: start, Length: c.layout.hashOffset(s.Offset+s.Length-1) + hashSize - start}
		c.listDamage(at, "differs from what was written"+harmless)
	}
	if !listed && len(c.list.spans)+len(c.differ) == 0 {
		c.listDamage(qcow2.Range{}, "does not match the manifest"+harmless)
	}
}

// judgeImage says where the image is damaged. A list that is not the one that
// was written cannot tell for sure.
func (c *imageCheck) judgeImage(listed bool) {
	for _, s := range c.list.spans {
		c.listDamage(s.Range, s.what)
	}
	what := "differs from what was written"
	if !listed {
		what += ", or its hash list does, which is damaged too"
		if c.list.file != nil && len(c.list.spans) == 0 {
			c.listDamage(qcow2.Range{Length: c.layout.hashesSize()}, "does not match the manifest")
		}
	}
	spans := c.failed
	for _, s := range c.differ {
		spans = append(spans, span{s.Range, what})
	}
	if c.size < c.disk.ImageBytes {
		at := c.size &^ (c.layout.unit - 1)
		what := fmt.Sprintf("missing: the file ends at byte %d of %d", c.size, c.disk.ImageBytes)
		spans = append(spans, span{qcow2.Range{Offset: at, Length: c.disk.ImageBytes - at}, what})
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.Offset, b.Offset) })
	if len(spans) == 0 { // image and list agree with each other: both are of another point
		spans = []span{{qcow2.Range{Length: c.size}, "is not the image that was written"}}
		if c.list.file == nil {
			spans[0].what = "differs from what was written; where, its hash list would tell, which is gone"
		}
	}
	disk, ok := c.locate(spans)
	for i, s := range spans {
		if ok {
			c.imageDamage(s, disk[i], false)
		} else {
			c.imageDamage(s, nil, true)
		}
	}
}

// locate finds the ranges of the disk that lie in the spans of the image. ok is
// false where the image cannot tell any more.
func (c *imageCheck) locate(spans []span) (disk [][]qcow2.Range, ok bool) {
	if !sortedApart(spans) {
		return nil, false
	}
	f, err := localfile.OpenRegular(c.path(c.disk.Image)) // without O_DIRECT
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
		parts = append(parts, s.Range)
	}
	disk, ok, err = qcow2.Locate(f, header, parts)
	return disk, ok && err == nil
}

func (c *imageCheck) add(d Damage) {
	d.Domain, d.Point = c.point.Domain, c.point.ID
	c.damage = append(c.damage, d)
}

func (c *imageCheck) imageDamage(s span, guest []qcow2.Range, whole bool) {
	c.add(Damage{File: c.name(c.disk.Image), Disk: c.disk.Target, Offset: s.Offset, Length: s.Length, What: s.what, Guest: guest, WholeDisk: whole})
}

func (c *imageCheck) listDamage(at qcow2.Range, what string) {
	c.add(Damage{File: c.name(c.disk.HashesFile()), Disk: c.disk.Target, Offset: at.Offset, Length: at.Length, What: what, Harmless: true})
}

// sortedApart tells whether spans are in order and do not overlap.
func sortedApart(spans []span) bool {
	end := int64(0)
	for _, s := range spans {
		if s.Offset < end {
			return false
		}
		end = s.Offset + s.Length
	}
	return true
}
