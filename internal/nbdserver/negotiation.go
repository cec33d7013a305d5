package nbdserver

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// negotiation is the handshake with a client and its options, up to the export that it chooses.
type negotiation struct {
	server *Server
	conn   net.Conn
	in     *bufio.Reader

	noZeroes   bool
	structured bool
	// The export that base:allocation was chosen for; nil: it was not.
	allocationOf *string
	chosen       Export
}

func newNegotiation(s *Server, conn net.Conn) *negotiation {
	return &negotiation{server: s, conn: conn, in: bufio.NewReader(conn)}
}

// run ends without an error when the transmission phase begins.
func (n *negotiation) run() error {
	hello := binary.BigEndian.AppendUint64(nil, initMagic)
	hello = binary.BigEndian.AppendUint64(hello, optionMagic)
	hello = binary.BigEndian.AppendUint16(hello, flagFixedNewstyle|flagNoZeroes)
	if _, err := n.conn.Write(hello); err != nil {
		return err
	}
	var flags uint32
	if err := binary.Read(n.in, binary.BigEndian, &flags); err != nil {
		return err
	}
	if flags&^(flagFixedNewstyle|flagNoZeroes) != 0 {
		return fmt.Errorf("unknown client flags %#x", flags)
	}
	n.noZeroes = flags&flagNoZeroes != 0
	for {
		option, data, err := n.readOption()
		if err != nil {
			return err
		}
		if begins, err := n.answer(option, data); begins || err != nil {
			return err
		}
	}
}

// readOption reads an option with its data.
func (n *negotiation) readOption() (option uint32, data []byte, err error) {
	var header struct {
		Magic          uint64
		Option, Length uint32
	}
	if err := binary.Read(n.in, binary.BigEndian, &header); err != nil {
		return 0, nil, err
	}
	if header.Magic != optionMagic {
		return 0, nil, fmt.Errorf("an option begins with %#x", header.Magic)
	}
	if header.Length > maxOption {
		return 0, nil, fmt.Errorf("option %d has %d bytes", header.Option, header.Length)
	}
	data = make([]byte, header.Length)
	_, err = io.ReadFull(n.in, data)
	return header.Option, data, err
}

// answer answers an option. begins: the transmission phase begins now.
func (n *negotiation) answer(option uint32, data []byte) (begins bool, err error) {
	switch option {
	case optExportName:
		return true, n.exportName(string(data))
	case optAbort:
		return false, errors.Join(n.reply(option, repAck, nil), errEnded)
	case optList:
		return false, n.list(data)
	case optInfo, optGo:
		return n.info(option, data)
	case optStructuredReply:
		if len(data) > 0 {
			return false, n.refuse(option, repErrInvalid, "structured replies take no data")
		}
		n.structured = true
		return false, n.reply(option, repAck, nil)
	case optListMetaContext, optSetMetaContext:
		return false, n.metaContext(option, data)
	}
	return false, n.refuse(option, repErrUnsup, fmt.Sprintf("option %d is not supported", option))
}

// reply sends an option reply.
func (n *negotiation) reply(option, kind uint32, data []byte) error {
	p := binary.BigEndian.AppendUint64(nil, replyMagic)
	p = binary.BigEndian.AppendUint32(p, option)
	p = binary.BigEndian.AppendUint32(p, kind)
	p = binary.BigEndian.AppendUint32(p, uint32(len(data)))
	_, err := n.conn.Write(append(p, data...))
	return err
}

// refuse sends an error reply with a text for people.
func (n *negotiation) refuse(option, kind uint32, why string) error {
	return n.reply(option, kind, []byte(why))
}

// exportName begins the transmission phase in the old way, where the only answer to a name that
// does not exist is to end the connection.
func (n *negotiation) exportName(name string) error {
	e, ok := n.server.export(name)
	if !ok {
		return fmt.Errorf("there is no export %q", name)
	}
	n.choose(e, name)
	p := binary.BigEndian.AppendUint64(nil, uint64(e.Disk.Size()))
	p = binary.BigEndian.AppendUint16(p, n.flags())
	if !n.noZeroes {
		p = append(p, make([]byte, 124)...)
	}
	_, err := n.conn.Write(p)
	return err
}

// choose takes an export by the name that the client used. Contexts that were chosen for another
// name do not count.
func (n *negotiation) choose(e Export, name string) {
	n.chosen = e
	if n.allocationOf != nil && *n.allocationOf != name {
		n.allocationOf = nil
	}
}

// flags are the transmission flags. All connections see the same bytes, so a client may have
// several.
func (n *negotiation) flags() uint16 {
	flags := uint16(flagHasFlags | flagReadOnly | flagCanMultiConn)
	if n.structured {
		flags |= flagSendDF
	}
	return flags
}

// list sends the names of the exports.
func (n *negotiation) list(data []byte) error {
	if len(data) > 0 {
		return n.refuse(optList, repErrInvalid, "a list of exports takes no data")
	}
	for _, e := range n.server.Exports {
		if err := n.reply(optList, repServer, append(appendString(nil, e.Name), e.Description...)); err != nil {
			return err
		}
	}
	return n.reply(optList, repAck, nil)
}

// info answers NBD_OPT_INFO and NBD_OPT_GO.
func (n *negotiation) info(option uint32, data []byte) (begins bool, err error) {
	name, rest, ok := cutString(data)
	if !ok || len(rest) < 2 || len(rest) != 2+2*int(binary.BigEndian.Uint16(rest)) {
		return false, n.refuse(option, repErrInvalid, "not the data of this option")
	}
	e, ok := n.server.export(name)
	if !ok {
		return false, n.refuse(option, repErrUnknown, "there is no export of this name")
	}
	p := binary.BigEndian.AppendUint16(nil, infoExport)
	p = binary.BigEndian.AppendUint64(p, uint64(e.Disk.Size()))
	p = binary.BigEndian.AppendUint16(p, n.flags())
	if err := n.reply(option, repInfo, p); err != nil {
		return false, err
	}
	for wanted := rest[2:]; len(wanted) > 0; wanted = wanted[2:] {
		if p := infoOf(e, binary.BigEndian.Uint16(wanted)); p != nil {
			if err := n.reply(option, repInfo, p); err != nil {
				return false, err
			}
		}
	}
	if option == optGo {
		n.choose(e, name)
	}
	return option == optGo, n.reply(option, repAck, nil)
}

// infoOf is a part of information that the client asks for; nil where there is none.
func infoOf(e Export, kind uint16) []byte {
	p := binary.BigEndian.AppendUint16(nil, kind)
	switch {
	case kind == infoName:
		return append(p, e.Name...)
	case kind == infoDescription && e.Description != "":
		return append(p, e.Description...)
	case kind == infoBlockSize:
		for _, size := range []uint32{1, preferredBlock, maxPayload} {
			p = binary.BigEndian.AppendUint32(p, size)
		}
		return p
	}
	return nil
}

// metaContext answers NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT.
func (n *negotiation) metaContext(option uint32, data []byte) error {
	name, queries, ok := parseContexts(data)
	switch _, known := n.server.export(name); {
	case !ok:
		return n.refuse(option, repErrInvalid, "not the data of this option")
	case !n.structured:
		return n.refuse(option, repErrInvalid, "structured replies come first")
	case !known:
		return n.refuse(option, repErrUnknown, "there is no export of this name")
	}
	listing := option == optListMetaContext
	wanted := listing && len(queries) == 0
	for _, q := range queries {
		wanted = wanted || q == baseAllocation || listing && q == "base:"
	}
	id := uint32(0) // reserved in a list
	if !listing {
		n.allocationOf = nil
		if wanted {
			n.allocationOf, id = &name, baseAllocationID
		}
	}
	if wanted {
		p := binary.BigEndian.AppendUint32(nil, id)
		if err := n.reply(option, repMetaContext, append(p, baseAllocation...)); err != nil {
			return err
		}
	}
	return n.reply(option, repAck, nil)
}

// parseContexts parses the name of an export and queries of contexts.
func parseContexts(data []byte) (name string, queries []string, ok bool) {
	name, rest, ok := cutString(data)
	if !ok || len(rest) < 4 {
		return "", nil, false
	}
	count := binary.BigEndian.Uint32(rest)
	rest = rest[4:]
	for range count {
		var q string
		if q, rest, ok = cutString(rest); !ok {
			return "", nil, false
		}
		queries = append(queries, q)
	}
	return name, queries, len(rest) == 0
}

// appendString appends a string with its length.
func appendString(p []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(p, uint32(len(s))), s...)
}

// cutString cuts a string with its length off the data of an option.
func cutString(data []byte) (s string, rest []byte, ok bool) {
	if len(data) < 4 {
		return "", nil, false
	}
	length := binary.BigEndian.Uint32(data)
	data = data[4:]
	if uint64(length) > uint64(len(data)) {
		return "", nil, false
	}
	return string(data[:length]), data[length:], true
}

// session is the transmission phase that the client has chosen.
func (n *negotiation) session() *session {
	return &session{conn: n.conn, in: n.in, disk: n.chosen.Disk, structured: n.structured, allocation: n.allocationOf != nil}
}
