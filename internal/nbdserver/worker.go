package nbdserver

import (
	"encoding/binary"

	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/panics"
)

// worker answers requests of a session, one at a time.
type worker struct {
	session *session
	buf     []byte // of pieceLength bytes; nil at first
}

// run reads and answers requests until the session has ended. An error is one of answering.
func (w *worker) run() error {
	for {
		r, err := w.session.next()
		if err != nil {
			return nil
		}
		if w.buf == nil {
			w.buf = directio.Buffer(pieceLength)
		}
		if err := panics.Catch(func() error { return w.answer(r) }); err != nil {
			w.session.conn.Close() // the client may wait for this reply: there is none
			return err
		}
	}
}

// answer answers a request. An error means that the connection is of no use any more.
func (w *worker) answer(r request) error {
	s := w.session
	if code, why := s.check(r); code != 0 {
		return s.replies.error(s.structured, r, code, why)
	}
	switch {
	case r.Type == cmdBlockStatus:
		return s.blockStatus(r)
	case s.structured:
		return w.readStructured(r)
	}
	return w.readSimple(r)
}

// readSimple answers a read with a simple reply. It begins with the error, if there is one, so all
// of the disk is read before; what does not fit into the buffer is then read again. If that fails the
// connection ends.
func (w *worker) readSimple(r request) error {
	s := w.session
	start, end := int64(r.Offset), int64(r.Offset)+int64(r.Length)
	for at := start; at < end; at += pieceLength {
		if err := s.disk.ReadAt(w.buf[:min(pieceLength, end-at)], at); err != nil {
			return s.replies.error(false, r, errIO, err.Error())
		}
	}
	send := s.replies.hold()
	defer s.replies.release()
	if err := send(simpleReply(r, 0), nil); err != nil {
		return err
	}
	for at := start; at < end; at += pieceLength {
		p := w.buf[:min(pieceLength, end-at)]
		if end-start > pieceLength {
			if err := s.disk.ReadAt(p, at); err != nil {
				return err
			}
		}
		if err := send(nil, p); err != nil {
			return err
		}
	}
	return nil
}

// readStructured answers a read with a chunk for each piece of data and each hole.
func (w *worker) readStructured(r request) error {
	s := w.session
	for at, end := int64(r.Offset), int64(r.Offset)+int64(r.Length); at < end; {
		to, hole, err := end, false, error(nil)
		if r.Flags&cmdFlagDF == 0 {
			to, hole, err = s.run1(at, end)
		}
		if !hole {
			to = min(to, at+pieceLength)
		}
		if err == nil && !hole {
			err = s.disk.ReadAt(w.buf[:to-at], at)
		}
		flags := uint16(0)
		if to == end {
			flags = replyFlagDone
		}
		switch {
		case err != nil:
			return s.replies.errorAt(r, at, err.Error())
		case hole:
			err = s.replies.chunk(r, flags, replyOffsetHole, binary.BigEndian.AppendUint32(offsetOf(at), uint32(to-at)), nil)
		default:
			err = s.replies.chunk(r, flags, replyOffsetData, offsetOf(at), w.buf[:to-at])
		}
		if err != nil {
			return err
		}
		at = to
	}
	return nil
}

// offsetOf is an offset as chunks begin with it.
func offsetOf(at int64) []byte { return binary.BigEndian.AppendUint64(make([]byte, 0, 12), uint64(at)) }
