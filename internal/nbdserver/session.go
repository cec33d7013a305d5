package nbdserver

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

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

	turn  sync.Mutex // to read
	ended error      // why nothing is read any more
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

// run answers requests until the client ends the connection or is not to be understood. Requests that
// were read are answered all the same.
//
// Workers take turns to read: who has read a request answers it, while the next one waits for another.
// So no request is passed on, which took a third of the time of a client that sends one at a time.
func (s *session) run() error {
	s.replies.conn = s.conn
	var group panics.Group
	for range workers {
		group.Go((&worker{session: s}).run)
	}
	return cmp.Or(group.Wait(), s.ended)
}

// next waits for a request. After an error there is none any more.
func (s *session) next() (r request, err error) {
	s.turn.Lock()
	defer s.turn.Unlock()
	if s.ended == nil {
		r, s.ended = s.readRequest()
	}
	return r, s.ended
}

// readRequest reads a request, and the payload that belongs to it.
func (s *session) readRequest() (request, error) {
	var p [requestLength]byte
	if _, err := io.ReadFull(s.in, p[:]); err != nil {
		return request{}, err
	}
	r := request{binary.BigEndian.Uint32(p[0:]), binary.BigEndian.Uint16(p[4:]), binary.BigEndian.Uint16(p[6:]),
		binary.BigEndian.Uint64(p[8:]), binary.BigEndian.Uint64(p[16:]), binary.BigEndian.Uint32(p[24:])}
	switch {
	case r.Magic != requestMagic:
		return r, fmt.Errorf("a request begins with %#x", r.Magic)
	case r.Type == cmdDisc:
		return r, errEnded
	case r.Type == cmdWrite:
		if r.Length > maxPayload {
			return r, fmt.Errorf("a write of %d bytes", r.Length)
		}
		if _, err := s.in.Discard(int(r.Length)); err != nil {
			return r, err
		}
	}
	return r, nil
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
