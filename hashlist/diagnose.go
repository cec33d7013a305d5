package hashlist

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/virtbackup/virtbackup/internal/digest"
)

// span is a place in a file and what is wrong there.
type span struct {
	Range
	what string
}

func addSpan(spans []span, place Range, what string) []span {
	if n := len(spans); n > 0 {
		last := &spans[n-1]
		adjacent := last.Offset+last.Length == place.Offset && last.what == what
		if adjacent || n >= maxSpans {
			last.Length = place.Offset + place.Length - last.Offset
			return spans
		}
	}
	return append(spans, span{place, what})
}

// diagnose says what is damaged once all has been read.
func (c *check) diagnose() {
	c.finishList()
	sound := c.image.Size >= c.layout.length && len(c.failed) == 0 && digest.Text(c.computed.Sum(nil)) == c.digest
	if listed := digest.Text(c.stored.Sum(nil)); c.list.complete() && listed == c.digest {
		c.list.checkTree(listed)
	}
	listed := c.list.complete() && digest.Text(c.stored.Sum(nil)) == c.digest
	c.appended()
	if sound {
		c.diagnoseList(listed)
		return
	}
	c.diagnoseImage(listed)
}

// finishList takes the hashes that a truncated image leaves over.
func (c *check) finishList() {
	for {
		sum, ok := c.list.next()
		if !ok {
			return
		}
		c.stored.Write(sum[:])
	}
}

func (c *check) appended() {
	if c.image.Size > c.layout.length {
		at := Range{Offset: c.layout.length, Length: c.image.Size - c.layout.length}
		c.findings = append(c.findings, Finding{Range: at, What: "was appended later; nothing reads it", Unused: true})
	}
}

// diagnoseList says where the list on disk is damaged, the image being sound.
func (c *check) diagnoseList(listed bool) {
	const harmless = "; the image it belongs to is sound by the manifest"
	for _, s := range c.list.spans {
		c.listDamage(s.Range, s.what+harmless)
	}
	for _, s := range c.differ {
		start := c.layout.hashOffset(s.Offset)
		at := Range{Offset: start, Length: c.layout.hashOffset(s.Offset+s.Length-1) + hashSize - start}
		c.listDamage(at, "differs from what was written"+harmless)
	}
	if !listed && len(c.list.spans)+len(c.differ) == 0 {
		c.listDamage(Range{}, "does not match the manifest"+harmless)
	}
}

// diagnoseImage says where the image is damaged. A list that is not the one that
// was written does not say it for certain.
func (c *check) diagnoseImage(listed bool) {
	for _, s := range c.list.spans {
		c.listDamage(s.Range, s.what)
	}
	what := "differs from what was written"
	if !listed {
		what += ", or its hash list does, which is damaged too"
		if c.list.file != nil && len(c.list.spans) == 0 {
			c.listDamage(Range{Length: c.layout.hashesSize()}, "does not match the manifest")
		}
	}
	spans := c.spans(what)
	if len(spans) == 0 { // image and list agree with each other: both are of another point
		spans = []span{{Range{Length: c.image.Size}, "is not the image that was written"}}
		if c.list.file == nil {
			spans[0].what = "differs from what was written; where, its hash list would tell, which is gone"
		}
	}
	for _, s := range spans {
		c.findings = append(c.findings, Finding{Range: s.Range, What: s.what})
	}
}

// spans are the damaged parts of the image, in order. what is wrong with those that differ.
func (c *check) spans(what string) []span {
	spans := c.failed
	for _, s := range c.differ {
		spans = append(spans, span{s.Range, what})
	}
	if c.image.Size < c.layout.length {
		at := c.image.Size &^ (c.layout.unit - 1)
		what := fmt.Sprintf("missing: the file ends at byte %d of %d", c.image.Size, c.layout.length)
		spans = append(spans, span{Range{Offset: at, Length: c.layout.length - at}, what})
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.Offset, b.Offset) })
	return spans
}

func (c *check) listDamage(at Range, what string) {
	c.findings = append(c.findings, Finding{Range: at, What: what, InList: true})
}
