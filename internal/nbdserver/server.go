package nbdserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/virtbackup/virtbackup/internal/panics"
)

// Disk is what an export serves. Its methods are called by several goroutines at once.
type Disk interface {
	// Size is that of the disk in bytes. It does not change.
	Size() int64
	// ReadAt fills p with the bytes at an offset; they end before the end of the disk. It is called
	// with pieces of at most pieceLength bytes, and does not keep p.
	ReadAt(p []byte, off int64) error
	// Run is where the run ends that the byte at an offset is in, and whether all of it reads as
	// zeros without being allocated. A run may end earlier than it could.
	Run(off int64) (end int64, hole bool, err error)
}

// Export is a disk with the name that clients ask for.
type Export struct {
	Name        string // at most 4096 bytes of UTF-8
	Description string // for people; may be empty
	Disk        Disk
}

// Server serves exports. If there is just one, clients may leave out its name.
type Server struct {
	Exports []Export
	Log     *slog.Logger // nil: nothing is logged

	handshake time.Duration // tests have less than handshakeTime, which 0 is
}

const (
	// A server has minConnections, or more if it has many exports: a guest opens one for each disk, who
	// looks whether the server answers another, and nbdcopy 4. They bound memory.
	minConnections = 32
	// workers of a connection read at the same time: enough to keep a disk and two cores busy, of
	// which one hashes.
	workers = 4
	// pieceLength is how much of a reply is read and sent at a time. It is what nbdcopy asks for,
	// and as fast as 1 MiB.
	pieceLength = 256 << 10
	// writeBuffer is what the kernel keeps of replies until the client takes them, as far as
	// net.core.wmem_max lets it: with less than a few pieces a worker sleeps in the middle of each.
	// Measured with nbdcopy, best of nine in turns (1 GiB, tmpfs): 0.95 s, without it 1.12 s.
	writeBuffer = 1 << 20
	// handshakeTime is how long a client may take until it has chosen an export. After that it may
	// be silent for as long as it likes.
	handshakeTime = 30 * time.Second
	// refusalsTold is how often the log says that clients are refused: who tries again and again
	// must not fill it.
	refusalsTold = time.Minute
	// outOfFiles is how long the server waits where the process may not open one more file.
	outOfFiles = 100 * time.Millisecond
)

// Serve accepts connections and serves them until ctx is cancelled, which ends all of them and is no
// error. It closes the listener, and returns when nothing of it runs any more.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	log := s.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	stop := panics.CloseAfter(ctx, listener)
	defer stop()
	defer listener.Close()
	open := connections{all: map[net.Conn]bool{}, most: s.maxConnections()}
	var group panics.Group
	var err error
	var told time.Time
	for {
		var conn net.Conn
		conn, err = listener.Accept()
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
			time.Sleep(outOfFiles) // those that are connected go on, and give files back
			continue
		}
		if err != nil {
			break
		}
		if !open.add(conn) {
			if time.Since(told) > refusalsTold {
				told = time.Now()
				log.Warn(fmt.Sprintf("clients are refused: there are %d connections", open.most))
			}
			conn.Close()
			continue
		}
		group.Go(func() error {
			defer open.remove(conn)
			if err := panics.Catch(func() error { return s.serve(conn) }); err != nil && ctx.Err() == nil {
				log.Debug("connection ended: " + err.Error())
			}
			return nil
		})
	}
	open.closeAll()
	if waited := group.Wait(); ctx.Err() != nil {
		return waited
	}
	return fmt.Errorf("accept connections on %s: %w", listener.Addr(), err)
}

// connections are those that are open.
type connections struct {
	most int

	mu  sync.Mutex
	all map[net.Conn]bool
}

// maxConnections bounds how many are open at a time.
func (s *Server) maxConnections() int { return max(minConnections, 2*len(s.Exports)+8) }

func (c *connections) add(conn net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.all) == c.most {
		return false
	}
	c.all[conn] = true
	return true
}

func (c *connections) remove(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.all, conn)
	conn.Close()
}

func (c *connections) closeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.all {
		conn.Close()
	}
}

// errEnded says that a client has ended the connection as it should.
var errEnded = errors.New("the client has ended it")

// serve serves one client.
func (s *Server) serve(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(cmp.Or(s.handshake, handshakeTime))); err != nil {
		return err
	}
	if c, ok := conn.(interface{ SetWriteBuffer(bytes int) error }); ok {
		_ = c.SetWriteBuffer(writeBuffer) // faster, no more
	}
	n := newNegotiation(s, conn)
	if err := n.run(); err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	return n.session().run()
}

// export returns the one of a name.
func (s *Server) export(name string) (Export, bool) {
	for _, e := range s.Exports {
		if e.Name == name {
			return e, true
		}
	}
	if name == "" && len(s.Exports) == 1 {
		return s.Exports[0], true
	}
	return Export{}, false
}
