package nbdserver

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/internal/panics"
)

// sample is a disk with holes and broken parts, of which nothing is aligned.
func sample() *memory {
	rnd := rand.New(rand.NewPCG(1, 2))
	m := &memory{data: make([]byte, 3<<20+512)}
	for i := range m.data {
		m.data[i] = byte(rnd.Uint32() | 1)
	}
	m.holes = [][2]int64{{1000, 5000}, {700_000, 1_500_000}, {3 << 20, 3<<20 + 512}}
	for _, h := range m.holes {
		clear(m.data[h[0]:h[1]])
	}
	m.broken = [][2]int64{{2_000_000, 2_000_100}}
	return m
}

// Whatever is read, in either kind of reply: the bytes of the disk, or an error if a part of them is
// broken.
func TestReads(t *testing.T) {
	m := sample()
	addr := serverOf(t, Export{Name: "vda", Disk: m})
	rnd := rand.New(rand.NewPCG(3, 4))
	for _, structured := range []bool{false, true} {
		c := begin(t, addr, structured)
		failed := 0
		for range 400 {
			size := 1 + rnd.IntN(1<<(1+rnd.IntN(21)))
			off := rnd.Int64N(m.Size() - int64(size) + 1)
			c.request(0, cmdRead, uint64(off), uint32(size))
			var got []byte
			var code uint32
			if structured {
				got, code, _ = c.structured(uint64(off), size)
			} else {
				got, code = c.simple(size)
			}
			broken := off < m.broken[0][1] && off+int64(size) > m.broken[0][0]
			if broken != (code == errIO) || !broken && (code != 0 || !bytes.Equal(got, m.data[off:off+int64(size)])) {
				t.Fatalf("structured %v: %d bytes at offset %d: error %d", structured, size, off, code)
			}
			if broken {
				failed++
			}
		}
		if failed == 0 {
			t.Error("nothing was broken")
		}
	}
}

// Holes are not sent, unless the client wants one piece.
func TestHolesAreNotSent(t *testing.T) {
	m := sample()
	c := begin(t, serverOf(t, Export{Name: "vda", Disk: m}), true)
	c.request(0, cmdRead, 0, 8000)
	if got, code, length := c.structured(0, 8000); code != 0 || length != 4000 || !bytes.Equal(got, m.data[:8000]) {
		t.Errorf("error %d, %d bytes were sent", code, length)
	}
	c.request(cmdFlagDF, cmdRead, 0, 8000)
	all := c.chunks()
	if len(all) != 1 || all[0].kind != replyOffsetData || !bytes.Equal(all[0].data[8:], m.data[:8000]) {
		t.Errorf("%d chunks", len(all))
	}
	c.request(cmdFlagDF, cmdRead, 0, pieceLength+1)
	if _, code, _ := c.structured(0, 0); code != errOverflow {
		t.Errorf("more than a piece: error %d", code)
	}
}

// Errors of structured replies say where, and what comes before is right.
func TestErrorOffset(t *testing.T) {
	m := sample()
	c := begin(t, serverOf(t, Export{Name: "vda", Disk: m}), true)
	c.request(0, cmdRead, 1_500_000, 1_000_000)
	all := c.chunks()
	last := all[len(all)-1]
	at := binary.BigEndian.Uint64(last.data[len(last.data)-8:])
	if last.kind != replyErrorOffset || at != 1_500_000+pieceLength || !strings.Contains(string(last.data), errBroken.Error()) || len(all) != 2 {
		t.Errorf("%d chunks, the last of type %d says %q, at %d", len(all), last.kind, last.data, at)
	}
}

// What cannot be done is an error of that request, and the connection goes on.
func TestRefusedRequests(t *testing.T) {
	m := sample()
	addr := serverOf(t, Export{Name: "vda", Disk: m})
	size := uint64(m.Size())
	for _, structured := range []bool{false, true} {
		c := begin(t, addr, structured)
		for _, tt := range []struct {
			flags, kind uint16
			offset      uint64
			length      uint32
			code        uint32
		}{
			{0, cmdRead, 0, 0, errInvalid},
			{0, cmdRead, size, 1, errInvalid},
			{0, cmdRead, size - 1, 2, errInvalid},
			{0, cmdRead, 1<<64 - 1, 2, errInvalid},
			{0, cmdRead, 1 << 63, 1, errInvalid},
			{0, cmdRead, 0, 1<<32 - 1, errInvalid},
			{0, cmdTrim, 0, 1, errPerm},
			{0, cmdWriteZeroes, 0, 1 << 31, errPerm},
			{0, 3, 0, 0, errInvalid}, // flush: it was not offered
			{0, 5, 0, 1, errInvalid}, // cache
			{0, 99, 0, 1, errInvalid},
			{0, cmdBlockStatus, size, 1, errInvalid},
		} {
			c.request(tt.flags, tt.kind, tt.offset, tt.length)
			var code uint32
			if structured {
				_, code, _ = c.structured(0, 0)
			} else {
				_, code = c.simple(0)
			}
			if code != tt.code {
				t.Errorf("structured %v, %+v: error %d", structured, tt, code)
			}
		}
		c.request(0, cmdWrite, 0, 70_000)
		c.send(strings.Repeat("x", 70_000))
		c.request(0, cmdRead, 10, 1)
		for range 2 { // in any order
			if structured {
				if all := c.chunks(); all[0].kind == replyOffsetData && all[0].data[8] != m.data[10] || all[0].kind == replyError && all[0].data[3] != errPerm {
					t.Errorf("after a write: %+v", all)
				}
				continue
			}
			p := c.read(16)
			if code := binary.BigEndian.Uint32(p[4:]); code == 0 && c.read(1)[0] != m.data[10] || code != 0 && code != errPerm {
				t.Errorf("after a write: error %d", code)
			}
		}
	}
	c := begin(t, addr, false)
	c.request(0, cmdBlockStatus, 0, 1)
	if _, code := c.simple(0); code != errInvalid {
		t.Errorf("block status without a context: error %d", code)
	}
}

// Block status tells each byte right, however much is asked for.
func TestBlockStatus(t *testing.T) {
	m := sample()
	c := begin(t, serverOf(t, Export{Name: "vda", Disk: m}), true)
	want := make([]byte, m.Size())
	for _, h := range m.holes {
		copy(want[h[0]:h[1]], bytes.Repeat([]byte{stateHole | stateZero}, int(h[1]-h[0])))
	}
	rnd := rand.New(rand.NewPCG(5, 6))
	for range 200 {
		size := 1 + rnd.Int64N(1<<(1+rnd.IntN(21)))
		off := rnd.Int64N(m.Size() - size + 1)
		one := rnd.IntN(2)
		c.request(uint16(one)*cmdFlagReqOne, cmdBlockStatus, uint64(off), uint32(size))
		all := c.chunks()
		if len(all) != 1 || all[0].kind != replyBlockStatus || binary.BigEndian.Uint32(all[0].data) != baseAllocationID {
			t.Fatalf("%+v", all)
		}
		at, n := off, 0
		for p := all[0].data[4:]; len(p) > 0; p = p[8:] {
			length, state := int64(binary.BigEndian.Uint32(p)), binary.BigEndian.Uint32(p[4:])
			if length == 0 || at+length > off+size || !bytes.Equal(want[at:at+length], bytes.Repeat([]byte{byte(state)}, int(length))) {
				t.Fatalf("%d bytes at offset %d: %d bytes at offset %d have state %d", size, off, length, at, state)
			}
			at, n = at+length, n+1
		}
		if one == 1 && n != 1 || one == 0 && at != off+size {
			t.Errorf("%d bytes at offset %d, one %d: %d extents up to %d", size, off, one, n, at)
		}
	}
}

// comb has a hole behind each byte of data.
type comb struct{ memory }

func (c *comb) Run(off int64) (int64, bool, error) { return off + 1, off%2 == 1, nil }

// A reply of block status is bounded, and says where it ends.
func TestBlockStatusIsBounded(t *testing.T) {
	m := &comb{memory{data: make([]byte, 1<<20)}}
	c := begin(t, serverOf(t, Export{Disk: m}), true)
	c.request(0, cmdBlockStatus, 0, 1<<20)
	if p := c.chunks()[0].data; len(p) != 4+8*maxDescriptors || binary.BigEndian.Uint32(p[len(p)-8:]) != 1 || binary.BigEndian.Uint32(p[len(p)-4:]) != 3 {
		t.Errorf("%d bytes", len(p))
	}
}

// stuck is a disk of which a run has no length.
type stuck struct{ memory }

func (s *stuck) Run(off int64) (int64, bool, error) { return off, false, nil }

// A bug of a disk is an error, no endless loop, and neither is one that panics.
func TestBadDisks(t *testing.T) {
	c := begin(t, serverOf(t, Export{Disk: &stuck{*sample()}}), true)
	c.request(0, cmdBlockStatus, 0, 100)
	if _, code, _ := c.structured(0, 0); code != errIO {
		t.Errorf("block status: error %d", code)
	}
	c.request(0, cmdRead, 0, 100)
	if _, code, _ := c.structured(0, 0); code != errIO {
		t.Errorf("read: error %d", code)
	}
	addr := serverOf(t, Export{Name: "a", Disk: nil}, Export{Name: "b", Disk: sample()})
	bad := dial(t, addr)
	bad.send(uint32(3), uint64(optionMagic), uint32(optGo), uint32(7), name("a")+"\x00\x00")
	bad.wantEnd("a disk that panics")
	good := dial(t, addr)
	good.send(uint32(3))
	if kinds, _ := good.option(optGo, name("b")+"\x00\x00"); kinds[len(kinds)-1] != repAck {
		t.Errorf("the other disk: %x", kinds)
	}
}

// The options, right and wrong, in the fixed newstyle.
func TestOptions(t *testing.T) {
	addr := serverOf(t, Export{Name: "vda", Description: "the first", Disk: sample()}, Export{Name: "vdb", Disk: sample()})
	c := dial(t, addr)
	c.send(uint32(3))
	want := func(what string, option uint32, data string, kinds ...uint32) [][]byte {
		t.Helper()
		got, replies := c.option(option, data)
		if fmt.Sprint(got) != fmt.Sprint(kinds) {
			t.Errorf("%s: replies %x, want %x", what, got, kinds)
			return make([][]byte, len(kinds))
		}
		return replies
	}
	if r := want("list", optList, "", repServer, repServer, repAck); string(r[0]) != name("vda")+"the first" || string(r[1]) != name("vdb") {
		t.Errorf("list: %q", r)
	}
	want("list with data", optList, "x", repErrInvalid)
	want("an unknown option", 77, "data", repErrUnsup)
	want("TLS", 5, "", repErrUnsup)
	want("contexts before structured replies", optSetMetaContext, name("vda")+"\x00\x00\x00\x01"+name(baseAllocation), repErrInvalid)
	want("structured replies with data", optStructuredReply, "x", repErrInvalid)
	want("structured replies", optStructuredReply, "", repAck)
	want("all contexts", optListMetaContext, name("vda")+"\x00\x00\x00\x00", repMetaContext, repAck)
	want("a namespace of contexts", optListMetaContext, name("vda")+"\x00\x00\x00\x01"+name("base:"), repMetaContext, repAck)
	want("other contexts", optListMetaContext, name("vda")+"\x00\x00\x00\x02"+name("qemu:")+name("x"), repAck)
	want("contexts of no export", optListMetaContext, name("")+"\x00\x00\x00\x00", repErrUnknown)
	want("no context chosen", optSetMetaContext, name("vda")+"\x00\x00\x00\x00", repAck)
	want("a namespace chosen", optSetMetaContext, name("vda")+"\x00\x00\x00\x01"+name("base:"), repAck)
	want("fewer queries than said", optSetMetaContext, name("vda")+"\xff\xff\xff\xff"+name(baseAllocation), repErrInvalid)
	want("more data than said", optSetMetaContext, name("vda")+"\x00\x00\x00\x00x", repErrInvalid)
	want("a string longer than the data", optInfo, "\xff\xff\xff\xffvda\x00\x00", repErrInvalid)
	want("info without a count", optInfo, name("vda"), repErrInvalid)
	want("info with a wrong count", optInfo, name("vda")+"\x00\x02\x00\x01", repErrInvalid)
	want("info of no export", optInfo, name("vdc")+"\x00\x00", repErrUnknown)
	want("of several none is the default", optInfo, name("")+"\x00\x00", repErrUnknown)
	if r := want("info", optInfo, name("vda")+"\x00\x04\x00\x01\x00\x02\x00\x03\x00\x63", repInfo, repInfo, repInfo, repInfo, repAck); string(r[1]) != "\x00\x01vda" ||
		string(r[2]) != "\x00\x02the first" || len(r[3]) != 14 {
		t.Errorf("info: %q", r)
	}
	want("contexts of the other disk", optSetMetaContext, name("vdb")+"\x00\x00\x00\x01"+name(baseAllocation), repMetaContext, repAck)
	want("go", optGo, name("vda")+"\x00\x00", repInfo, repAck)
	c.request(0, cmdBlockStatus, 0, 100)
	if _, code, _ := c.structured(0, 0); code != errInvalid {
		t.Errorf("block status with the context of another disk: error %d", code)
	}
	c.request(0, cmdDisc, 0, 0)
	c.wantEnd("disconnect")

	c = dial(t, addr)
	c.send(uint32(3))
	want("abort", optAbort, "", repAck)
	c.wantEnd("abort")
}

// The old way to choose an export.
func TestExportName(t *testing.T) {
	m := sample()
	addr := serverOf(t, Export{Name: "vda", Disk: m}, Export{Name: "vdb", Disk: sample()})
	for _, flags := range []uint32{1, 3} {
		c := dial(t, addr)
		c.send(flags, uint64(optionMagic), uint32(optExportName), uint32(3), "vda")
		p := c.read(10)
		if flags == 1 {
			p = append(p, c.read(124)...)
		}
		if binary.BigEndian.Uint64(p) != uint64(m.Size()) || binary.BigEndian.Uint16(p[8:]) != flagHasFlags|flagReadOnly|flagCanMultiConn {
			t.Errorf("flags %d: %x", flags, p)
		}
		c.request(0, cmdRead, 17, 1)
		if data, code := c.simple(1); code != 0 || data[0] != m.data[17] {
			t.Errorf("flags %d: %x, error %d", flags, data, code)
		}
	}
	c := dial(t, addr)
	c.send(uint32(3), uint64(optionMagic), uint32(optExportName), uint32(3), "vdc")
	c.wantEnd("an export that is not there")
}

// What is no NBD ends the connection, and harms no other one.
func TestGarbage(t *testing.T) {
	m := sample()
	addr := serverOf(t, Export{Name: "vda", Disk: m})
	other := begin(t, addr, true)
	for what, send := range map[string]func(c *client){
		"unknown client flags":      func(c *client) { c.send(uint32(1 << 7)) },
		"an option without a magic": func(c *client) { c.send(uint32(3), "GET / HTTP/1.1\r\n\r\n") },
		"a huge option":             func(c *client) { c.send(uint32(3), uint64(optionMagic), uint32(optGo), uint32(1<<32-1)) },
	} {
		c := dial(t, addr)
		send(c)
		c.wantEnd(what)
	}
	for what, send := range map[string]func(c *client){
		"a request without a magic": func(c *client) { c.send(strings.Repeat("x", requestLength)) },
		"a huge write":              func(c *client) { c.request(0, cmdWrite, 0, 1<<32-1) },
	} {
		c := begin(t, addr, true)
		send(c)
		c.wantEnd(what)
	}
	other.request(0, cmdRead, 0, 1)
	if got, code, _ := other.structured(0, 1); code != 0 || got[0] != m.data[0] {
		t.Errorf("another connection: error %d", code)
	}
}

// A client that reads no replies does not keep others from theirs, nor the server from its end.
func TestSilentClients(t *testing.T) {
	m := sample()
	addr := serverOf(t, Export{Name: "vda", Disk: m})
	for range 10 {
		c := begin(t, addr, true)
		for range 20 {
			c.request(0, cmdRead, 0, 1_900_000)
		}
	}
	c := begin(t, addr, true)
	c.request(0, cmdRead, 5, 1)
	if got, code, _ := c.structured(5, 1); code != 0 || got[0] != m.data[5] {
		t.Errorf("error %d", code)
	}
}

// Who does not choose an export in time is gone; who has chosen one may be silent for longer.
func TestHandshakeTime(t *testing.T) {
	const limit = 300 * time.Millisecond
	m := sample()
	addr := run(t, &Server{Exports: []Export{{Disk: m}}, handshake: limit})
	chosen := begin(t, addr, true)
	silent := dial(t, addr)
	silent.send(uint32(3))
	start := time.Now()
	silent.wantEnd("no export")
	if took := time.Since(start); took < limit/2 || took > 20*limit {
		t.Errorf("ended after %v", took)
	}
	time.Sleep(limit)
	chosen.request(0, cmdRead, 5, 1)
	if got, code, _ := chosen.structured(5, 1); code != 0 || got[0] != m.data[5] {
		t.Errorf("error %d", code)
	}
}

// There are no more connections than memory was meant for; when one ends there is room again.
func TestConnectionsAreBounded(t *testing.T) {
	addr := serverOf(t, Export{Disk: sample()})
	var open []*client
	for range maxConnections {
		open = append(open, begin(t, addr, false))
	}
	more := func() error {
		c := dialOnly(t, addr)
		defer c.conn.Close()
		_, err := io.ReadFull(c.conn, make([]byte, 18))
		return err
	}
	if more() == nil {
		t.Error("one connection more is served")
	}
	open[0].request(0, cmdDisc, 0, 0)
	open[0].wantEnd("disconnect")
	for range 100 {
		if more() == nil {
			return
		}
	}
	t.Error("there is no room after a connection has ended")
}

// fullOfFiles is a listener of a process that may not open one more file, for a while.
type fullOfFiles struct {
	net.Listener
	left atomic.Int32
}

func (f *fullOfFiles) Accept() (net.Conn, error) {
	if f.left.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return f.Listener.Accept()
}

// A server outlives that it cannot accept for a while, and says not more than once that it refuses
// clients, however many come.
func TestAcceptingGoesOn(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	full := &fullOfFiles{Listener: l}
	full.left.Store(3)
	var log bytes.Buffer // written to by Serve alone
	ctx, cancel := context.WithCancel(t.Context())
	done := panics.Go(func() error {
		return (&Server{Exports: []Export{{Disk: sample()}}, Log: slog.New(slog.NewTextHandler(&log, nil))}).Serve(ctx, full)
	})
	for range maxConnections {
		begin(t, l.Addr(), false)
	}
	for range 200 {
		c := dialOnly(t, l.Addr())
		_, _ = io.ReadFull(c.conn, make([]byte, 18)) // until the server has closed it
		c.conn.Close()
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := strings.Count(log.String(), "clients are refused"); n != 1 {
		t.Errorf("it says so %d times: %s", n, &log)
	}
}

// Clients that ask for much and take nothing cost what they may, and others are served meanwhile.
func TestClientsThatNeverRead(t *testing.T) {
	disk := &memory{data: make([]byte, 64<<20)}
	addr := serverOf(t, Export{Disk: disk})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range maxConnections - 1 {
		c := begin(t, addr, i%2 == 0)
		for range 16 {
			c.request(0, cmdRead, 0, maxPayload)
		}
	}
	c := begin(t, addr, true)
	c.request(0, cmdRead, 10<<20, 1<<20)
	if _, code, n := c.structured(10<<20, 1<<20); code != 0 || n != 1<<20 {
		t.Errorf("%d bytes, error %d", n, code)
	}
	runtime.ReadMemStats(&after)
	if held := int64(after.Sys) - int64(before.Sys); held > 96<<20 {
		t.Errorf("the process has grown by %d MiB", held>>20)
	}
}
