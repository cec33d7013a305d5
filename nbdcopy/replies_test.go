//go:build cgo

package nbdcopy

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/extent/extenttest"
)

// Magic numbers and types of the NBD protocol (doc/proto.md).
const (
	nbdMagic      = "NBDMAGICIHAVEOPT"
	optionReply   = 0x3e889045565a9
	simpleReply   = 0x67446698
	structured    = 0x668e33ef
	chunkDone     = 1
	chunkNone     = 0
	chunkData     = 1
	chunkHole     = 2
	chunkStatus   = 5
	optionGo      = 7
	optionStruct  = 8
	optionSetMeta = 10
	replyAck      = 1
	replyInfo     = 3
	replyMeta     = 4
	replyUnknown  = 1<<31 + 1
	commandRead   = 0
	commandStatus = 7
	contextID     = 7
)

// scripted is an NBD server in this process that answers a read with reply, which
// is told whether the client has asked for structured replies, and a block status with
// status. Without status it has no metadata context.
type scripted struct {
	t      *testing.T
	size   uint64
	reply  func(w io.Writer, q wireRequest, structured bool)
	status func(w io.Writer, q wireRequest)
}

type wireRequest struct {
	handle, offset uint64
	length         uint32
}

// content is what the disk holds anywhere.
func content(length uint32) []byte { return bytes.Repeat([]byte{'d'}, int(length)) }

// put writes numbers in network byte order.
func put(w io.Writer, fields ...any) {
	for _, f := range fields {
		_ = binary.Write(w, binary.BigEndian, f) // a client that is gone is no matter
	}
}

func (q wireRequest) data(w io.Writer, from, length uint32) {
	put(w, uint32(structured), uint16(0), uint16(chunkData), q.handle, 8+length, q.offset+uint64(from), content(length))
}

func (q wireRequest) hole(w io.Writer, from, length uint32) {
	put(w, uint32(structured), uint16(0), uint16(chunkHole), q.handle, uint32(12), q.offset+uint64(from), length)
}

func (q wireRequest) done(w io.Writer) {
	put(w, uint32(structured), uint16(chunkDone), uint16(chunkNone), q.handle, uint32(0))
}

// described is a chunk of block status with one entry.
func (q wireRequest) described(w io.Writer, length, flags uint32) {
	put(w, uint32(structured), uint16(0), uint16(chunkStatus), q.handle, uint32(12), uint32(contextID), length, flags)
}

func (q wireRequest) simple(w io.Writer) {
	put(w, uint32(simpleReply), uint32(0), q.handle, content(q.length))
}

// listen serves until the test ends.
func (s scripted) listen() Source {
	socket := filepath.Join(s.t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go s.serve(c)
		}
	}()
	return Source{Socket: socket, Export: "vda"}
}

func (s scripted) serve(c net.Conn) {
	defer c.Close()
	put(c, []byte(nbdMagic), uint16(3)) // fixed newstyle, no zeroes
	var flags uint32
	_ = binary.Read(c, binary.BigEndian, &flags)
	asked := false
	for {
		var option struct {
			Magic          uint64
			Option, Length uint32
		}
		if binary.Read(c, binary.BigEndian, &option) != nil {
			return
		}
		_, _ = io.CopyN(io.Discard, c, int64(option.Length))
		answer := uint32(replyAck)
		switch option.Option {
		case optionStruct:
			asked = true
		case optionSetMeta:
			if s.status != nil {
				put(c, uint64(optionReply), option.Option, uint32(replyMeta), uint32(4+len(allocation)), uint32(contextID), []byte(allocation))
			}
		case optionGo:
			put(c, uint64(optionReply), option.Option, uint32(replyInfo), uint32(12), uint16(0), s.size, uint16(1))
		default:
			answer = replyUnknown
		}
		put(c, uint64(optionReply), option.Option, answer, uint32(0))
		if option.Option == optionGo {
			s.answer(c, asked)
			return
		}
	}
}

// answer answers requests until the client goes.
func (s scripted) answer(c net.Conn, asked bool) {
	for {
		var command struct {
			Magic       uint32
			Flags, Type uint16
			Handle      uint64
			Offset      uint64
			Length      uint32
		}
		if binary.Read(c, binary.BigEndian, &command) != nil {
			return
		}
		q := wireRequest{command.Handle, command.Offset, command.Length}
		switch {
		case command.Type == commandRead:
			s.reply(c, q, asked)
		case command.Type == commandStatus && s.status != nil:
			s.status(c, q)
		default:
			return
		}
	}
}

// Whatever the server answers: the copy has what the disk holds, or it fails.
func TestRepliesThatDoNotCoverARead(t *testing.T) {
	const part = 4096
	tests := map[string]func(w io.Writer, q wireRequest){
		"whole":          func(w io.Writer, q wireRequest) { q.data(w, 0, q.length); q.done(w) },
		"nothing":        func(w io.Writer, q wireRequest) { q.done(w) },
		"end missing":    func(w io.Writer, q wireRequest) { q.data(w, 0, q.length-part); q.done(w) },
		"begin missing":  func(w io.Writer, q wireRequest) { q.data(w, part, q.length-part); q.done(w) },
		"middle missing": func(w io.Writer, q wireRequest) { q.data(w, 0, part); q.data(w, 2*part, q.length-2*part); q.done(w) },
		"twice, and the end missing": func(w io.Writer, q wireRequest) {
			q.data(w, 0, q.length/2)
			q.data(w, 0, q.length/2)
			q.done(w)
		},
		"hole over data": func(w io.Writer, q wireRequest) { q.data(w, 0, q.length); q.hole(w, part, part); q.done(w) },
		"overlap":        func(w io.Writer, q wireRequest) { q.data(w, 0, 2*part); q.hole(w, part, q.length-part); q.done(w) },
		"behind the end": func(w io.Writer, q wireRequest) { q.data(w, part, q.length); q.done(w) },
	}
	for name, chunks := range tests {
		for _, stubborn := range []bool{false, true} {
			t.Run(map[bool]string{false: name, true: name + ", not asked for"}[stubborn], func(t *testing.T) {
				s := scripted{t: t, size: 4 * mib, reply: func(w io.Writer, q wireRequest, asked bool) {
					if asked || stubborn {
						chunks(w, q)
						return
					}
					q.simple(w)
				}}
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				defer cancel()
				e, err := Open(ctx, s.listen())
				if err != nil {
					t.Fatal(err)
				}
				defer e.Close()
				sink := &extenttest.Recorder{Cluster: 64 * kib, Size: e.Size(), Bytes: make([]byte, e.Size())}
				_, err = e.Copy(ctx, sink, Options{})
				if err == nil && !bytes.Equal(sink.Bytes, bytes.Repeat([]byte{'d'}, 4*mib)) {
					t.Error("the copy is not what the disk holds, and no error")
				}
				if !stubborn && err != nil {
					t.Errorf("a server that answers as it was asked: %v", err)
				}
				if ctx.Err() != nil {
					t.Error("the copy hung")
				}
				t.Log(err)
			})
		}
	}
}

// A disk of zeros with data behind them, whose server describes the zeros more than once:
// that is not taken for what the data is.
func TestBlockStatusTwice(t *testing.T) {
	const zeros, size = 2 * mib, 4 * mib
	for _, times := range []int{1, 2, 3} {
		s := scripted{t: t, size: size,
			reply: func(w io.Writer, q wireRequest, _ bool) { q.simple(w) }, // only the data is read
			status: func(w io.Writer, q wireRequest) {
				for range times {
					if q.offset < zeros {
						q.described(w, uint32(zeros-q.offset), stateZero)
					} else {
						q.described(w, q.length, 0)
					}
				}
				q.done(w)
			}}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		e, err := Open(ctx, s.listen())
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		sink := &extenttest.Recorder{Cluster: 64 * kib, Size: e.Size(), Bytes: make([]byte, e.Size())}
		_, err = e.Copy(ctx, sink, Options{})
		switch {
		case times > 1:
			if err == nil || !strings.Contains(err.Error(), errStatusTwice.Error()) {
				t.Errorf("%d times: error %v, want %v", times, err, errStatusTwice)
			}
		case err != nil || !bytes.Equal(sink.Bytes, append(make([]byte, zeros), content(size-zeros)...)):
			t.Errorf("once: the copy is not what the disk holds, error %v", err)
		}
	}
}
