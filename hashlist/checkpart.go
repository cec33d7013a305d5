package hashlist

import (
	"context"

	"github.com/virtbackup/virtbackup/internal/digest"
)

// CheckPart is Check of a part of an image: the ranges for whose indices part returns true;
// no other range is read. All of the hash list is, and its digest proves it before anything
// is said of the image.
//
// listed is false if the list on disk is not the one that was written. Then it proves nothing,
// and the findings are only those of the list and of the image's size: Check says whether the
// image is sound. CheckOptions.Proven has no effect. part is called from several goroutines.
func CheckPart(ctx context.Context, image ImageFile, list ListFile, of List, part func(index int64) bool, o CheckOptions) (found []Finding, listed bool, err error) {
	c := newCheck(image, list, of, o)
	c.part = part
	if err := c.read(ctx); err != nil {
		return nil, false, err
	}
	listed = c.diagnosePart()
	return c.findings, listed, nil
}

// Ranges is the number of ranges of the image that have a hash each.
func (l List) Ranges() int64 { return l.layout().ranges() }

// readPart reads those ranges of a piece that are to be read, and no others: the ones that
// follow each other at once.
func (c *check) readPart(ctx context.Context, results []rangeResult, buf []byte, offset, n int64) error {
	for i := range results {
		results[i].left = !c.part(offset/c.layout.unit + int64(i))
	}
	for first := 0; first < len(results); {
		end := first
		for end < len(results) && !results[end].left {
			end++
		}
		if first == end {
			first++
			continue
		}
		at := int64(first) * c.layout.unit
		length := min(int64(end)*c.layout.unit, n) - at
		if err := c.options.Wait(ctx, int(length)); err != nil {
			return err
		}
		c.readRanges(results[first:end], buf[at:min(int64(end)*c.layout.unit, int64(len(buf)))], offset+at, length)
		c.options.Progress(length)
		first = end
	}
	return nil
}

// diagnosePart says what is damaged once a part has been read.
func (c *check) diagnosePart() (listed bool) {
	c.finishList()
	sum := digest.Text(c.stored.Sum(nil))
	listed = c.list.file != nil && sum == c.digest
	if listed {
		c.list.checkTree(sum)
	}
	for _, s := range c.list.spans {
		c.listDamage(s.Range, s.what)
	}
	c.appended()
	if !listed {
		c.differ, c.failed = nil, nil
		if len(c.list.spans) == 0 {
			c.listDamage(Range{Length: c.layout.hashesSize()}, "does not match the manifest")
		}
	}
	for _, s := range c.spans("differs from what was written") {
		c.findings = append(c.findings, Finding{Range: s.Range, What: s.what})
	}
	return listed
}
