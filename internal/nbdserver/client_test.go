package nbdserver

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/internal/panics"
)

// memory is a disk of which some parts are holes, and some cannot be read.
type memory struct {
	data   []byte
	holes  [][2]int64 // from, to
	broken [][2]int64
}

func (m *memory) Size() int64 { return int64(len(m.data)) }

var errBroken = errors.New("a broken part")

func (m *memory) ReadAt(p []byte, off int64) error {
	for _, b := range m.broken {
		if off < b[1] && b[0] < off+int64(len(p)) {
			return errBroken
		}
	}
	copy(p, m.data[off:])
	return nil
}

func (m *memory) Run(off int64) (end int64, hole bool, err error) {
	end = m.Size()
	for _, h := range m.holes {
		if off >= h[0] && off < h[1] {
			return h[1], true, nil
		}
		if h[0] > off {
			end = min(end, h[0])
		}
	}
	return end, false, nil
}

// serverOf serves exports to clients, until the test ends.
func serverOf(t *testing.T, exports ...Export) net.Addr {
	t.Helper()
	return run(t, &Server{Exports: exports})
}

// run runs a server until the test ends.
func run(t *testing.T, s *Server) net.Addr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := panics.Go(func() error { return s.Serve(ctx, l) })
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Serve does not end")
		}
	})
	return l.Addr()
}

// client speaks the protocol as it was told to, right or wrong.
type client struct {
	t    *testing.T
	conn net.Conn
}

func dial(t *testing.T, addr net.Addr) *client {
	t.Helper()
	conn, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	c := &client{t, conn}
	if hello := c.read(18); binary.BigEndian.Uint64(hello) != initMagic || binary.BigEndian.Uint64(hello[8:]) != optionMagic || binary.BigEndian.Uint16(hello[16:]) != 3 {
		t.Fatalf("the server begins with %x", hello)
	}
	return c
}

func (c *client) read(n int) []byte {
	c.t.Helper()
	p := make([]byte, n)
	if _, err := io.ReadFull(c.conn, p); err != nil {
		c.t.Fatal(err)
	}
	return p
}

// send sends numbers, big endian, and bytes.
func (c *client) send(values ...any) {
	c.t.Helper()
	var b bytes.Buffer
	for _, v := range values {
		if s, ok := v.(string); ok {
			v = []byte(s)
		}
		if err := binary.Write(&b, binary.BigEndian, v); err != nil {
			c.t.Fatal(err)
		}
	}
	if _, err := c.conn.Write(b.Bytes()); err != nil {
		c.t.Fatal(err)
	}
}

// wantEnd sees that the server has ended the connection.
func (c *client) wantEnd(what string) {
	c.t.Helper()
	n, err := c.conn.Read(make([]byte, 1))
	var timeout net.Error
	if n > 0 || err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		c.t.Errorf("%s: the connection goes on: %d, %v", what, n, err)
	}
}

// option sends an option, and returns the replies up to the last one.
func (c *client) option(option uint32, data string) (kinds []uint32, replies [][]byte) {
	c.t.Helper()
	c.send(uint64(optionMagic), option, uint32(len(data)), data)
	for {
		p := c.read(20)
		if binary.BigEndian.Uint64(p) != replyMagic || binary.BigEndian.Uint32(p[8:]) != option {
			c.t.Fatalf("a reply begins with %x", p)
		}
		kind := binary.BigEndian.Uint32(p[12:])
		kinds, replies = append(kinds, kind), append(replies, c.read(int(binary.BigEndian.Uint32(p[16:]))))
		if kind == repAck || kind >= 1<<31 {
			return kinds, replies
		}
	}
}

// name is a string with its length.
func name(s string) string { return string(appendString(nil, s)) }

// begin begins the transmission phase with an export, with structured replies and base:allocation
// or without both.
func begin(t *testing.T, addr net.Addr, structured bool) *client {
	t.Helper()
	c := dial(t, addr)
	c.send(uint32(3))
	if structured {
		c.option(optStructuredReply, "")
		c.option(optSetMetaContext, name("")+"\x00\x00\x00\x01"+name(baseAllocation))
	}
	if kinds, _ := c.option(optGo, name("")+"\x00\x00"); len(kinds) != 2 || kinds[1] != repAck {
		t.Fatalf("go: %d", kinds)
	}
	return c
}

const cookie = 0x0123456789abcdef

func (c *client) request(flags, kind uint16, offset uint64, length uint32) {
	c.t.Helper()
	c.send(uint32(requestMagic), flags, kind, uint64(cookie), offset, length)
}

// simple reads a simple reply.
func (c *client) simple(length int) (data []byte, code uint32) {
	c.t.Helper()
	p := c.read(16)
	if binary.BigEndian.Uint32(p) != simpleMagic || binary.BigEndian.Uint64(p[8:]) != cookie {
		c.t.Fatalf("not a simple reply: %x", p)
	}
	if code = binary.BigEndian.Uint32(p[4:]); code == 0 {
		data = c.read(length)
	}
	return data, code
}

// chunk is one of a structured reply.
type chunk struct {
	kind uint16
	data []byte
}

// chunks reads a structured reply.
func (c *client) chunks() (all []chunk) {
	c.t.Helper()
	for {
		p := c.read(20)
		if binary.BigEndian.Uint32(p) != structuredMagic || binary.BigEndian.Uint64(p[8:]) != cookie {
			c.t.Fatalf("not a chunk: %x", p)
		}
		all = append(all, chunk{binary.BigEndian.Uint16(p[6:]), c.read(int(binary.BigEndian.Uint32(p[16:])))})
		if binary.BigEndian.Uint16(p[4:])&replyFlagDone != 0 {
			return all
		}
	}
}

// structured reads a structured reply to a read. code is 0 if it has no error; length is how many
// bytes of data were sent, holes not counted.
func (c *client) structured(offset uint64, size int) (data []byte, code uint32, length int) {
	c.t.Helper()
	data = bytes.Repeat([]byte{0xee}, size)
	filled := 0
	for _, k := range c.chunks() {
		switch k.kind {
		case replyOffsetData:
			filled += copy(data[binary.BigEndian.Uint64(k.data)-offset:], k.data[8:])
			length += len(k.data) - 8
		case replyOffsetHole:
			n := int(binary.BigEndian.Uint32(k.data[8:]))
			clear(data[binary.BigEndian.Uint64(k.data)-offset:][:n])
			filled += n
		case replyError, replyErrorOffset:
			code = binary.BigEndian.Uint32(k.data)
		default:
			c.t.Fatalf("a chunk of type %d in the reply to a read", k.kind)
		}
	}
	if code == 0 && filled != size {
		c.t.Fatalf("a reply of %d bytes, %d were asked for", filled, size)
	}
	return data, code, length
}

// dialOnly connects and reads nothing.
func dialOnly(t *testing.T, addr net.Addr) *client {
	t.Helper()
	conn, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	return &client{t, conn}
}
