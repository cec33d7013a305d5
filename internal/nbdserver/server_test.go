package nbdserver

import (
	"bytes"
	"context"
	"io"
	"log/slog"
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
	for range minConnections {
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
	for range minConnections {
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
	for i := range minConnections - 1 {
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

// A guest opens a connection for each disk, and there is room for others.
func TestManyExports(t *testing.T) {
	for exports, want := range map[int]int{1: minConnections, 12: minConnections, 33: 74} {
		if got := (&Server{Exports: make([]Export, exports)}).maxConnections(); got != want {
			t.Errorf("%d exports: %d connections, want %d", exports, got, want)
		}
	}
}
