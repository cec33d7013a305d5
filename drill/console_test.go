package drill

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"
)

func listenFor(t *testing.T, expect string) (*console, net.Conn) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.sock")
	c, err := listen(path, expect, func(string) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	return c, conn
}

func write(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := conn.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

// ended waits until the console has read all.
func ended(t *testing.T, c *console, conn net.Conn) {
	t.Helper()
	conn.Close()
	if err := <-c.done; err != nil {
		t.Error(err)
	}
}

// The text is found wherever the pieces of what is written end.
func TestExpect(t *testing.T) {
	for _, pieces := range [][]string{{"x login: "}, {"x log", "in: "}, {"l", "o", "g", "in", ":"}, {"loglogin:"}} {
		c, conn := listenFor(t, "login:")
		for _, piece := range pieces {
			write(t, conn, piece)
			time.Sleep(5 * time.Millisecond) // so that they are read one by one, mostly
		}
		ended(t, c, conn)
		if !c.hasAppeared() {
			t.Errorf("%q: not found", pieces)
		}
	}
	c, conn := listenFor(t, "login:")
	write(t, conn, "log\nin:")
	ended(t, c, conn)
	if c.hasAppeared() {
		t.Error("found where it is not")
	}
}

// A guest that writes and writes fills neither memory nor record, and what it expects is still found.
func TestFlood(t *testing.T) {
	c, conn := listenFor(t, "needle")
	flood := strings.Repeat(strings.Repeat("x", 1000)+"\n", 64)
	for range 500 { // 32 MB
		write(t, conn, flood)
	}
	write(t, conn, "needle\n")
	for range 10 {
		write(t, conn, flood)
	}
	ended(t, c, conn)
	if len(c.tail) > 2*keptConsole || cap(c.tail) > 8*keptConsole || len(c.carry) > len(c.expect) {
		t.Errorf("it keeps %d bytes of %d, %d to look through", len(c.tail), cap(c.tail), len(c.carry))
	}
	if !c.hasAppeared() {
		t.Error("the text was not found")
	}
	lines := c.lines()
	if len(lines) != keptLines || len(lines[0]) > keptLine+len("…") {
		t.Errorf("%d lines, the first of %d bytes", len(lines), len(lines[0]))
	}
}

// Lines are text, without what moves a cursor.
func TestLines(t *testing.T) {
	c, conn := listenFor(t, "")
	write(t, conn, "\x1b[2J\x1b[1;1H\x1b[0mSeaBIOS\r\n\r\n   \r\nBoot\xff failed\x07\r\nlast")
	ended(t, c, conn)
	got := c.lines()
	if len(got) != 3 || got[0] != "SeaBIOS" || got[1] != "Boot"+string(utf8.RuneError)+" failed\x07" || got[2] != "last" {
		t.Errorf("%q", got)
	}
}

// The mode of the socket is not changed by its path: in a directory of QEMU's user that may lead elsewhere by then.
func TestSocketMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	defer syscall.Umask(syscall.Umask(0o027))
	c, err := listen(path, "", func(string) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("%v, %v", info, err)
	}
	if err := c.close(); err != nil {
		t.Error(err)
	}
}

// It ends, whether QEMU has connected or not.
func TestCloseConsole(t *testing.T) {
	c, _ := listenFor(t, "")
	if err := c.close(); err != nil {
		t.Error(err)
	}
	alone, err := listen(filepath.Join(t.TempDir(), "c.sock"), "", func(string) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if err := alone.close(); err != nil {
		t.Error(err)
	}
}
