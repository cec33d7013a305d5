package nbdserver

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/panics"
)

// session is the transmission phase of a connection.
type session struct {
	conn       net.Conn
	in         *bufio.Reader
	disk       Disk
	structured bool
	allocation bool // base:allocation was chosen
	replies    writer
}

// request is one of a client, without its payload.
type request struct {
	Magic  uint32
	Flags  uint16
	Type   uint16
	Cookie uint64
	Offset uint64
	Length uint32
}

// requestLength is that of a request on the wire.
const requestLength = 28

// run reads requests, and has workers answer them, until the client ends the connection or is
// not to be understood. Requests that were read are answered all the same.
func (s *session) run() error {
	s.replies.conn = s.conn
	requests := make(chan request)
	var group panics.Group
	for range workers {
		group.Go(func() error {
			var err error
			buf := []byte(nil)
			for r := range requests {
				if err != nil {
					continue
				}
				if buf == nil {
					buf = directio.Buffer(pieceLength)
				}
				if err = panics.Catch(func() error { return s.answer(r, buf) }); err != nil {
					s.conn.Close() // the client may wait for this reply: there is none
				}
			}
			return err
		})
	}
	err := s.readRequests(requests)
	close(requests)
	if failed := group.Wait(); failed != nil {
		return failed
	}
	return err
}

// readRequests passes requests on.
func (s *session) readRequests(to chan<- request) error {
	var p [requestLength]byte
	for {
		if _, err := io.ReadFull(s.in, p[:]); err != nil {
			return err
		}
		r := request{binary.BigEndian.Uint32(p[0:]), binary.BigEndian.Uint16(p[4:]), binary.BigEndian.Uint16(p[6:]),
			binary.BigEndian.Uint64(p[8:]), binary.BigEndian.Uint64(p[16:]), binary.BigEndian.Uint32(p[24:])}
		switch {
		case r.Magic != requestMagic:
			return fmt.Errorf("a request begins with %#x", r.Magic)
		case r.Type == cmdDisc:
			return errEnded
		case r.Type == cmdWrite:
			if r.Length > maxPayload {
				return fmt.Errorf("a write of %d bytes", r.Length)
			}
			if _, err := s.in.Discard(int(r.Length)); err != nil {
				return err
			}
		}
		to <- r
	}
}

// answer answers a request. An error means that the connection is of no use any more.
func (s *session) answer(r request, buf []byte) error {
	if code, why := s.check(r); code != 0 {
		return s.replies.error(s.structured, r, code, why)
	}
	switch {
	case r.Type == cmdBlockStatus:
		return s.blockStatus(r)
	case s.structured:
		return s.readStructured(r, buf)
	}
	return s.readSimple(r, buf)
}

// check returns the error that a request is answered with before the disk is asked.
func (s *session) check(r request) (code uint32, why string) {
	size := uint64(s.disk.Size())
	switch {
	case r.Type == cmdWrite, r.Type == cmdTrim, r.Type == cmdWriteZeroes:
		return errPerm, "the export is read-only"
	case r.Type != cmdRead && r.Type != cmdBlockStatus:
		return errInvalid, fmt.Sprintf("command %d is not supported", r.Type)
	case r.Length == 0 || r.Offset > size || uint64(r.Length) > size-r.Offset:
		return errInvalid, fmt.Sprintf("%d bytes at offset %d: the disk has %d", r.Length, r.Offset, size)
	case r.Type == cmdBlockStatus && !s.allocation:
		return errInvalid, "no metadata context was chosen"
	case r.Type == cmdBlockStatus:
		return 0, ""
	case r.Length > maxPayload:
		return errInvalid, fmt.Sprintf("a read of %d bytes; at most %d", r.Length, maxPayload)
	case r.Flags&cmdFlagDF != 0 && !s.structured:
		return errInvalid, "only a structured reply can be fragmented"
	case r.Flags&cmdFlagDF != 0 && r.Length > pieceLength:
		return errOverflow, fmt.Sprintf("%d bytes are not sent in one piece", r.Length)
	}
	return 0, ""
}

// readSimple answers a read with a simple reply. It begins with the error, if there is one, so all
// of the disk is read before; what does not fit into buf is then read again. If that fails the
// connection ends.
func (s *session) readSimple(r request, buf []byte) error {
	start, end := int64(r.Offset), int64(r.Offset)+int64(r.Length)
	for at := start; at < end; at += pieceLength {
		if err := s.disk.ReadAt(buf[:min(pieceLength, end-at)], at); err != nil {
			return s.replies.error(false, r, errIO, err.Error())
		}
	}
	send := s.replies.hold()
	defer s.replies.release()
	if err := send(simpleReply(r, 0), nil); err != nil {
		return err
	}
	for at := start; at < end; at += pieceLength {
		p := buf[:min(pieceLength, end-at)]
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
func (s *session) readStructured(r request, buf []byte) error {
	for at, end := int64(r.Offset), int64(r.Offset)+int64(r.Length); at < end; {
		to, hole, err := end, false, error(nil)
		if r.Flags&cmdFlagDF == 0 {
			to, hole, err = s.run1(at, end)
		}
		if !hole {
			to = min(to, at+pieceLength)
		}
		if err == nil && !hole {
			err = s.disk.ReadAt(buf[:to-at], at)
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
			err = s.replies.chunk(r, flags, replyOffsetData, offsetOf(at), buf[:to-at])
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

// errNoProgress says that a disk has a run of no length, which is a bug.
var errNoProgress = errors.New("a run of no length")

// run1 is the run of the disk at an offset, of which what is behind end does not matter.
func (s *session) run1(at, end int64) (to int64, hole bool, err error) {
	to, hole, err = s.disk.Run(at)
	if err == nil && to <= at {
		err = errNoProgress
	}
	return min(to, end), hole, err
}

// maxDescriptors bounds a reply to a query of block status: 64 KiB. Clients ask again for the rest.
const maxDescriptors = 8 << 10

// blockStatus answers with the runs of the disk; neighbours that are alike become one.
func (s *session) blockStatus(r request) error {
	most := maxDescriptors
	if r.Flags&cmdFlagReqOne != 0 {
		most = 1
	}
	p := binary.BigEndian.AppendUint32(nil, baseAllocationID)
	last := uint32(0)
	for at, end, n := int64(r.Offset), int64(r.Offset)+int64(r.Length), 0; at < end; {
		to, hole, err := s.run1(at, end)
		if err != nil {
			return s.replies.error(true, r, errIO, err.Error())
		}
		state := uint32(0)
		if hole {
			state = stateHole | stateZero
		}
		if n > 0 && state == last {
			length := p[len(p)-8:]
			binary.BigEndian.PutUint32(length, binary.BigEndian.Uint32(length)+uint32(to-at))
		} else {
			if n == most {
				break
			}
			p = binary.BigEndian.AppendUint32(p, uint32(to-at))
			p = binary.BigEndian.AppendUint32(p, state)
			n, last = n+1, state
		}
		at = to
	}
	return s.replies.chunk(r, replyFlagDone, replyBlockStatus, p, nil)
}
