package nbdserver

import (
	"encoding/binary"
	"fmt"
	"testing"
)

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
