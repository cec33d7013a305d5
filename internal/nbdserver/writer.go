package nbdserver

import (
	"encoding/binary"
	"net"
	"strings"
	"sync"
)

// maxMessage bounds the text of an error; the protocol has at most 4096 bytes of a string.
const maxMessage = 4096

// writer sends replies of several workers, each as a whole.
type writer struct {
	mu   sync.Mutex
	conn net.Conn
}

// hold returns what sends bytes while nobody else does; release ends that.
func (w *writer) hold() (send func(header, data []byte) error) {
	w.mu.Lock()
	return w.send
}

func (w *writer) release() { w.mu.Unlock() }

// send sends header and data, which stay the caller's, with one system call.
func (w *writer) send(header, data []byte) error {
	buffers := net.Buffers{header, data}
	_, err := buffers.WriteTo(w.conn)
	return err
}

// simpleReply is the header of a simple reply.
func simpleReply(r request, code uint32) []byte {
	p := binary.BigEndian.AppendUint32(make([]byte, 0, 16), simpleMagic)
	p = binary.BigEndian.AppendUint32(p, code)
	return binary.BigEndian.AppendUint64(p, r.Cookie)
}

// chunk sends a chunk of a structured reply: head and data are its payload.
func (w *writer) chunk(r request, flags, kind uint16, head, data []byte) error {
	p := binary.BigEndian.AppendUint32(make([]byte, 0, 32), structuredMagic)
	p = binary.BigEndian.AppendUint16(p, flags)
	p = binary.BigEndian.AppendUint16(p, kind)
	p = binary.BigEndian.AppendUint64(p, r.Cookie)
	p = binary.BigEndian.AppendUint32(p, uint32(len(head)+len(data)))
	w.hold()
	defer w.release()
	return w.send(append(p, head...), data)
}

// error answers a request with an error, and a text where there is room for one.
func (w *writer) error(structured bool, r request, code uint32, why string) error {
	if structured {
		return w.chunk(r, replyFlagDone, replyError, errorText(code, why), nil)
	}
	w.hold()
	defer w.release()
	return w.send(simpleReply(r, code), nil)
}

// errorAt ends a reply with an I/O error at an offset.
func (w *writer) errorAt(r request, at int64, why string) error {
	return w.chunk(r, replyFlagDone, replyErrorOffset, errorText(errIO, why), binary.BigEndian.AppendUint64(nil, uint64(at)))
}

// errorText is a code with a text for people.
func errorText(code uint32, why string) []byte {
	why = strings.ToValidUTF8(why[:min(len(why), maxMessage)], "")
	p := binary.BigEndian.AppendUint32(make([]byte, 0, 6+len(why)+8), code)
	p = binary.BigEndian.AppendUint16(p, uint16(len(why)))
	return append(p, why...)
}
