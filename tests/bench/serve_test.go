package bench

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// A minimal NBD server of fixed newstyle, as doc/proto.md of the NBD project has
// it, with simple replies: QEMU needs no more. nbdkit's filters for slow devices
// know neither an arm nor an elevator.
const (
	nbdMagic        = 0x4e42444d41474943 // "NBDMAGIC"
	nbdOption       = 0x49484156454f5054 // "IHAVEOPT"
	nbdOptionReply  = 0x0003e889045565a9
	nbdRequest      = 0x25609513
	nbdReply        = 0x67446698
	nbdFixed        = 1 | 2 // fixed newstyle, no zeroes
	nbdExportFlags  = 1 | 4 // has flags, takes flushes; not read-only
	nbdAck          = 1
	nbdInfo         = 3
	nbdUnsupported  = 1<<31 + 1
	nbdOptAbort     = 2
	nbdOptInfo      = 6
	nbdOptGo        = 7
	nbdRead         = 0
	nbdWrite        = 1
	nbdDisconnect   = 2
	nbdFlush        = 3
	nbdNotPermitted = 1 // EPERM
)

// export is a part of a device, filled with content, that is served over NBD.
type export struct {
	*device
	at, size int64 // on the device, bytes
	content  []byte
}

// serve serves an export on a new socket until the test ends.
func (e *export) serve(t *testing.T, dir, name string) (socket string) {
	t.Helper()
	socket = filepath.Join(dir, name)
	l, err := net.Listen("unix", socket)
	if err == nil {
		err = os.Chmod(socket, 0o777) // QEMU is another user
	}
	if err != nil {
		t.Fatal(err)
	}
	var clients sync.WaitGroup
	clients.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			clients.Go(func() {
				defer c.Close()
				if err := e.client(c); err != nil && !errors.Is(err, io.EOF) {
					t.Errorf("NBD client of %s: %v", name, err)
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		clients.Wait() // QEMU and qemu-img have ended: so do these
	})
	return socket
}

// client serves one connection to its end.
func (e *export) client(c net.Conn) error {
	r := bufio.NewReader(c)
	if err := write(c, uint64(nbdMagic), uint64(nbdOption), uint16(nbdFixed)); err != nil {
		return err
	}
	var flags uint32
	if err := read(r, &flags); err != nil {
		return err
	}
	for {
		begun, err := e.option(c, r)
		if err != nil {
			return err
		}
		if begun {
			return e.transmit(c, r)
		}
	}
}

// option answers one option; begun says that requests follow.
func (e *export) option(c net.Conn, r io.Reader) (begun bool, err error) {
	var magic uint64
	var option, length uint32
	if err := read(r, &magic, &option, &length); err != nil {
		return false, err
	}
	if _, err := io.CopyN(io.Discard, r, int64(length)); err != nil {
		return false, err
	}
	answer := func(kind, length uint32, more ...any) {
		err = errors.Join(err, write(c, append([]any{uint64(nbdOptionReply), option, kind, length}, more...)...))
	}
	switch option {
	case nbdOptGo, nbdOptInfo:
		answer(nbdInfo, 12, uint16(0), uint64(e.size), uint16(nbdExportFlags))
		answer(nbdAck, 0)
	case nbdOptAbort:
		answer(nbdAck, 0)
		return false, errors.Join(err, io.EOF)
	default:
		answer(nbdUnsupported, 0)
	}
	return option == nbdOptGo, err
}

// transmit takes requests until the client disconnects.
func (e *export) transmit(c net.Conn, r io.Reader) error {
	var replies sync.Mutex
	var open sync.WaitGroup
	defer open.Wait()
	for {
		var magic, length uint32
		var flags, command uint16
		var cookie, offset uint64
		if err := read(r, &magic, &flags, &command, &cookie, &offset, &length); err != nil {
			return err
		}
		reply := func(code uint32, data int64) {
			replies.Lock()
			defer replies.Unlock()
			// A disconnected client needs no reply.
			if write(c, uint32(nbdReply), code, cookie) == nil && data > 0 {
				e.send(c, int64(offset), data)
			}
		}
		switch command {
		case nbdRead:
			open.Add(1)
			e.read(&request{offset: e.at + int64(offset), length: int64(length), done: func() {
				defer open.Done()
				reply(0, int64(length))
			}})
		case nbdWrite: // the guest is paused and does not write
			if _, err := io.CopyN(io.Discard, r, int64(length)); err != nil {
				return err
			}
			reply(nbdNotPermitted, 0)
		case nbdDisconnect:
			return nil
		case nbdFlush:
			reply(0, 0)
		default:
			reply(nbdNotPermitted, 0)
		}
	}
}

// send sends what the device holds there: the content, over and over.
func (e *export) send(c net.Conn, offset, length int64) {
	for length > 0 {
		part := e.content[(e.at+offset)%int64(len(e.content)):]
		part = part[:min(int64(len(part)), length)]
		if _, err := c.Write(part); err != nil {
			return
		}
		offset += int64(len(part))
		length -= int64(len(part))
	}
}

// write and read carry numbers in network byte order.
func write(w io.Writer, numbers ...any) error {
	var all []byte
	for _, n := range numbers {
		var err error
		if all, err = binary.Append(all, binary.BigEndian, n); err != nil {
			return err
		}
	}
	_, err := w.Write(all)
	return err
}

func read(r io.Reader, numbers ...any) error {
	for _, n := range numbers {
		if err := binary.Read(r, binary.BigEndian, n); err != nil {
			return err
		}
	}
	return nil
}
