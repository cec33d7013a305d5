package drill

import (
	"bytes"
	"errors"
	"net"
	"regexp"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/virtbackup/virtbackup/internal/panics"
)

const (
	// keptConsole is how much is kept of a console, in bytes: some screens, however much a guest
	// writes. It is read from a socket, so that no file grows.
	keptConsole = 64 << 10
	// keptLines and keptLine are how many lines go into a record, and how many bytes of each.
	keptLines = 60
	keptLine  = 400
	// maxExpect is how long a text to expect may be, in bytes.
	maxExpect = 1 << 10
)

// console reads the first serial port of a guest.
type console struct {
	l    *net.UnixListener
	done <-chan error // of the reader

	mu       sync.Mutex
	conn     net.Conn // QEMU's, nil before it connects
	closed   bool
	tail     []byte // the end of what was written
	expect   []byte
	carry    []byte // the end of what was looked through: expect may begin there
	appeared bool   // expect did
}

// listen makes the socket that QEMU connects to, which give gives to its user. Nobody else can enter its directory:
// its mode stays as it is, which could only be changed by its path, in a directory of that user's.
func listen(path, expect string, give func(path string) error) (*console, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // it goes with its directory
	if err := give(path); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	c := &console{l: l, expect: []byte(expect)}
	c.done = panics.Go(c.read)
	return c, nil
}

// read reads what the one client writes until it ends.
func (c *console) read() error {
	conn, err := c.l.Accept()
	if err != nil {
		return nil // closed, and nobody came
	}
	defer conn.Close()
	c.mu.Lock()
	c.conn = conn
	closed := c.closed
	c.mu.Unlock()
	if closed {
		return nil
	}
	part := make([]byte, 16<<10)
	for {
		n, err := conn.Read(part)
		c.add(part[:n])
		if err != nil {
			return nil // QEMU has ended, or we
		}
	}
}

// add takes what the guest has written.
func (c *console) add(text []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tail = append(c.tail, text...); len(c.tail) > 2*keptConsole {
		c.tail = append([]byte(nil), c.tail[len(c.tail)-keptConsole:]...)
	}
	if len(c.expect) == 0 || c.appeared {
		return
	}
	c.carry = append(c.carry, text...)
	c.appeared = bytes.Contains(c.carry, c.expect)
	c.carry = append([]byte(nil), c.carry[max(0, len(c.carry)-len(c.expect)+1):]...)
}

// hasAppeared tells whether the text that is expected was written.
func (c *console) hasAppeared() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.appeared
}

// colours are sequences that move the cursor and colour text (ECMA-48, CSI), which say nothing
// in a list of lines.
var colours = regexp.MustCompile(`\x1b\[[0-9;?]*[@-~]|\x1b[()][A-Z0-9]|\x1b[=>cM78]`)

// lines are the last lines, as text that is valid and not yet safe for a terminal.
func (c *console) lines() []string {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	text := strings.ToValidUTF8(string(c.tail[max(0, len(c.tail)-keptConsole):]), string(utf8.RuneError))
	c.mu.Unlock()
	text = strings.ReplaceAll(colours.ReplaceAllString(text, ""), "\r", "")
	var all []string
	for line := range strings.SplitSeq(text, "\n") {
		if line = strings.TrimRight(line, " \t"); line != "" {
			all = append(all, cut(line, keptLine))
		}
	}
	return all[max(0, len(all)-keptLines):]
}

// cut is the beginning of a text, most bytes at most.
func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

// close ends the reader and waits for it.
func (c *console) close() error {
	c.mu.Lock()
	c.closed = true
	err := c.l.Close()
	if c.conn != nil {
		c.conn.Close()
	}
	c.mu.Unlock()
	return errors.Join(err, <-c.done)
}
