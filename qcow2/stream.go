package qcow2

// A run has at most maxRun segments and at most one for each runShare that the
// stream has: half a frame is lost between two runs, and what is left over of
// the last one where other segments follow. With frames of 32 KiB that is 0.2 %
// between runs of 8 MiB, and 1.6 % left over; runs of one segment from a small
// stream lose 1.6 % between them.
const (
	maxRun   = 8
	runShare = 64
)

// stream is where compressed clusters are packed, byte by byte: a frame may
// cross the borders of host clusters and of segments, but must lie in one piece
// in the file. So the stream takes runs of segments; where a run does not go on
// from the one before, because others have taken segments meanwhile, the room
// left is too small for the frame and is lost.
//
//	run                              run, not joined to the one before
//	├─ segment ─┼─ segment ─┤  raw   ├─ segment ─┼┄┄┄┄┄┄┄┄┄┄┄┤
//	 frame|frame|frame|fra··          frame|fr   ^next        ^end
type stream struct {
	segs   *segments
	counts *refcounts
	open   *segment // being filled; nil when just full
	next   int64    // where the reserved segments behind it begin
	end    int64    // and end
	taken  int64    // segments
}

// newStream starts in the rest of the file's first segment.
func newStream(segs *segments, counts *refcounts, first *segment) *stream {
	s := &stream{segs: segs, counts: counts, next: int64(segs.size), end: int64(segs.size)}
	if first.room() > 0 {
		s.open = first
		counts.claim(first.offset+int64(first.used), s.end)
	}
	return s
}

// position is where the stream goes on, unless a frame needs more room in one
// piece. What lies before it is final.
func (s *stream) position() int64 {
	if s.open != nil {
		return s.open.offset + int64(s.open.used)
	}
	return s.next
}

// add copies a frame of less than a segment into the stream. It returns its
// place in the file and the segment that is full then, the caller's to write.
func (s *stream) add(frame []byte) (at int64, full *segment) {
	full = s.reserve(int64(len(frame)))
	at = s.position()
	s.counts.touch(at, int64(len(frame)))
	for len(frame) > 0 {
		if s.open == nil {
			s.open = s.segs.at(s.next)
			s.next += int64(s.segs.size)
		}
		n := min(len(frame), s.open.room())
		s.open.add(frame[:n])
		frame = frame[n:]
		if s.open.room() == 0 {
			full, s.open = s.open, nil
		}
	}
	return at, full
}

// reserve makes the room in one piece at least length bytes, if need be in
// another place. It returns the segment that it leaves behind then.
func (s *stream) reserve(length int64) (left *segment) {
	room := s.end - s.next
	if s.open != nil {
		room += int64(s.open.room())
	}
	if room >= length {
		return nil
	}
	n := max(1, min(maxRun, s.taken/runShare))
	start := s.segs.reserveRun(n)
	if start != s.end {
		left, s.open, s.next = s.open, nil, start
	}
	s.end = start + n*int64(s.segs.size)
	s.taken += n
	s.counts.claim(start, s.end)
	return left
}
