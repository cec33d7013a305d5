package nbdserver

import (
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/internal/panics"
)

// Whatever a client sends, the server answers or ends the connection: it neither panics nor hangs,
// and sends no bytes of a read that are not the disk's.
func FuzzClient(f *testing.F) {
	option := func(p []byte, option uint32, data string) []byte {
		p = binary.BigEndian.AppendUint64(p, optionMagic)
		p = binary.BigEndian.AppendUint32(p, option)
		p = binary.BigEndian.AppendUint32(p, uint32(len(data)))
		return append(p, data...)
	}
	request := func(p []byte, kind uint16, offset uint64, length uint32) []byte {
		p = binary.BigEndian.AppendUint32(p, requestMagic)
		p = binary.BigEndian.AppendUint16(p, 0)
		p = binary.BigEndian.AppendUint16(p, kind)
		p = binary.BigEndian.AppendUint64(p, cookie)
		p = binary.BigEndian.AppendUint64(p, offset)
		return binary.BigEndian.AppendUint32(p, length)
	}
	flags := []byte{0, 0, 0, 3}
	whole := option(flags, optStructuredReply, "")
	whole = option(whole, optSetMetaContext, name("")+"\x00\x00\x00\x01"+name(baseAllocation))
	whole = option(whole, optGo, name("")+"\x00\x01\x00\x03")
	whole = request(whole, cmdRead, 100, 3000)
	whole = request(whole, cmdBlockStatus, 0, 1<<20)
	f.Add(request(whole, cmdDisc, 0, 0))
	f.Add(request(option(flags, optExportName, "vda"), cmdRead, 0, 1<<20))
	f.Add(option(option(flags, optList, ""), optAbort, ""))
	f.Add(append(request(option(flags, optExportName, "vda"), cmdWrite, 0, 4), "data"...))
	f.Add(append(option(flags, optList, string(make([]byte, maxOption+1))), make([]byte, 8<<10)...)) // the server does not read to the end
	m := sample()
	f.Fuzz(func(t *testing.T, input []byte) {
		ours, theirs := net.Pipe()
		s := &Server{Exports: []Export{{Name: "vda", Disk: m}}}
		done := panics.Go(func() error {
			defer theirs.Close() // as Serve does
			return s.serve(theirs)
		})
		read := panics.Go(func() error { _, err := io.Copy(io.Discard, ours); return err })
		_, _ = ours.Write(input) // it may have ended
		ours.Close()
		select {
		case err := <-done:
			if p, ok := err.(*panics.Error); ok {
				t.Fatalf("%v\n%s", p, p.Stack)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("it hangs")
		}
		<-read
	})
}
