package reading

import (
	"cmp"
	"fmt"
	"slices"
)

// Lost is a part of a disk whose content is unknown, in bytes.
type Lost struct {
	Disk   string `json:"disk"` // target
	Offset int64  `json:"offset"`
	Length int64  `json:"length"`
}

// maxReasons bounds the warnings of one disk that say why something is lost: each damaged
// cluster has one.
const maxReasons = 5

// lostParts are those of one disk.
type lostParts struct {
	parts   []Lost // at first in any order, with some of them repeatedly
	merged  int    // how many there were when they were merged last
	reasons map[string]bool
}

// lose records that a part of a disk is lost, and says why.
func (p *Point) lose(target string, offset, length int64, why error) {
	if reason := p.losing(target, offset, length, why); reason != "" {
		p.Warn(reason)
	}
}

// losing returns the reason if it is to be said.
func (p *Point) losing(target string, offset, length int64, why error) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.lost[target]
	if l == nil {
		l = &lostParts{reasons: map[string]bool{}}
		p.lost[target] = l
	}
	if l.parts = append(l.parts, Lost{target, offset, length}); len(l.parts) > 2*l.merged+1024 {
		l.merge()
	}
	reason := fmt.Sprintf("disk %s: what follows is lost, and restored as zeros: %v", target, why)
	if len(l.reasons) == maxReasons || l.reasons[reason] {
		return ""
	}
	if l.reasons[reason] = true; len(l.reasons) == maxReasons {
		reason += " (there is more)"
	}
	return reason
}

// merge sorts the parts and makes one of those that touch each other.
func (l *lostParts) merge() {
	slices.SortFunc(l.parts, func(a, b Lost) int { return cmp.Compare(a.Offset, b.Offset) })
	merged := l.parts[:0]
	for _, p := range l.parts {
		if n := len(merged); n > 0 && p.Offset <= merged[n-1].Offset+merged[n-1].Length {
			last := &merged[n-1]
			last.Length = max(last.Length, p.Offset+p.Length-last.Offset)
			continue
		}
		merged = append(merged, p)
	}
	l.parts, l.merged = merged, len(merged)
}

// Lost returns the parts of the disks that were lost so far, sorted, those of one disk after
// those of another.
func (p *Point) Lost() (all []Lost) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range p.disks {
		if l := p.lost[d.Target]; l != nil {
			l.merge()
			all = append(all, l.parts...)
		}
	}
	return all
}
