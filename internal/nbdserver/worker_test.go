package nbdserver

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
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

// fickle is a disk that cannot be read any more from the nth time on.
type fickle struct {
	memory
	left atomic.Int64
}

func (f *fickle) ReadAt(p []byte, off int64) error {
	if f.left.Add(-1) < 0 {
		return errBroken
	}
	return f.memory.ReadAt(p, off)
}

// A simple reply has said that there is no error: what cannot be read after that ends the connection, and
// no bytes take the place of those that are missing. Who waits for the rest sees the end.
func TestReadFailsInASimpleReply(t *testing.T) {
	m := &fickle{memory: *sample()}
	m.left.Store(3) // both pieces, and the first one again
	c := begin(t, serverOf(t, Export{Disk: m}), false)
	c.request(0, cmdRead, 0, 2*pieceLength)
	p := c.read(16 + pieceLength)
	if code := binary.BigEndian.Uint32(p[4:]); code != 0 || !bytes.Equal(p[16:], m.data[:pieceLength]) {
		t.Errorf("error %d, or other bytes", code)
	}
	c.wantEnd("after what could be read")
}
