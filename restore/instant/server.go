package instant

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/keep"
	"github.com/virtbackup/virtbackup/serve"
)

const (
	// startTime is how long a server may take until it listens: it opens the images of the chains.
	startTime = time.Minute
	// endTime is how long one may take to end.
	endTime = 10 * time.Second
)

// server is the process that shows the point to QEMU. It is one of its own, which goes on when
// this one is killed, and ends by itself when the pin is gone.
type server struct {
	program []string // with its arguments, without those of the server
	domain  string
	pin     keep.Pin

	ended <-chan error // of a server that this process has started; nil if there is none
	why   error        // of the last one that has ended
	said  int64        // how much of its log was read
}

// ensure starts the server unless one listens. started tells whether it did.
func (s *server) ensure(ctx context.Context) (started bool, err error) {
	if s.listens() {
		return false, nil
	}
	if err := s.begin(); err != nil {
		return false, err
	}
	return true, s.await(ctx)
}

// begin starts the server.
func (s *server) begin() error {
	if err := fault.Point("instant: start server"); err != nil {
		return err
	}
	s.reap()
	if err := s.start(); err != nil {
		return fmt.Errorf("start a server for %s@%s: %w", s.domain, s.pin.Point, err)
	}
	return nil
}

// await waits until the server listens.
func (s *server) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for !s.listens() {
		select {
		case s.why = <-s.ended:
			s.ended = nil
			return fmt.Errorf("the server for %s@%s has ended%s: %s", s.domain, s.pin.Point, s.reason(), strings.Join(s.lines(), "; "))
		case <-ctx.Done():
			return fmt.Errorf("await the server for %s@%s: %w", s.domain, s.pin.Point, context.Cause(ctx))
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// listens tells whether a server of this user answers on the socket. The directory belongs to QEMU's
// user, who may listen there, too.
func (s *server) listens() bool {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: s.pin.Runs.Socket, Net: "unix"})
	if err != nil {
		return false
	}
	defer conn.Close()
	if !ours(conn) {
		return false
	}
	hello := make([]byte, 8) // NBDMAGIC: one that hangs does not count
	_ = conn.SetDeadline(time.Now().Add(startTime))
	_, err = io.ReadFull(conn, hello)
	return err == nil
}

// ours tells whether the process that listens is this user's (SO_PEERCRED, unix(7)).
func ours(conn *net.UnixConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	var peer *unix.Ucred
	var peerErr error
	err = raw.Control(func(fd uintptr) { peer, peerErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	return err == nil && peerErr == nil && int(peer.Uid) == os.Geteuid()
}

// start starts a process with a session of its own: Ctrl-C and the end of a terminal are not for it.
func (s *server) start() error {
	log, err := os.OpenFile(s.log(), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	s.said = 0
	args := append(s.program[1:len(s.program):len(s.program)], "serve", s.domain+"@"+s.pin.Point, "--socket", s.pin.Runs.Socket, "--pin", s.pin.ID)
	cmd := exec.Command(s.program[0], args...) // ends with the pin
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Dir = "/"
	if err := cmd.Start(); err != nil {
		return err
	}
	s.ended = panics.Go(cmd.Wait)
	return nil
}

// reap waits for a server of this process that has ended.
func (s *server) reap() {
	if s.ended == nil {
		return
	}
	select {
	case s.why = <-s.ended:
		s.ended = nil
	default:
	}
}

// reason says why the last server of this process has ended, where that is known.
func (s *server) reason() string {
	if s.why == nil {
		return ""
	}
	return " (" + s.why.Error() + ")"
}

// log is the path of the server's log.
func (s *server) log() string { return s.pin.Runs.Socket + ".log" }

// lines are those that the server's log has got since the last call.
func (s *server) lines() (lines []string) {
	f, err := os.Open(s.log())
	if err != nil {
		return nil
	}
	defer f.Close()
	if _, err := f.Seek(s.said, io.SeekStart); err != nil {
		return nil
	}
	r := bufio.NewReader(f)
	for {
		line, err := r.ReadString('\n')
		if err != nil { // not complete yet
			return lines
		}
		s.said += int64(len(line))
		lines = append(lines, strings.TrimSpace(line))
	}
}

// damage are the lines of what could not be read since the last call.
func (s *server) damage() (lines []string) {
	for _, line := range s.lines() {
		if _, what, _ := strings.Cut(line, ": "); strings.HasPrefix(what, serve.FailurePrefix) {
			lines = append(lines, what)
		}
	}
	return lines
}

// end waits until the server has ended, which it does once the pin is gone, and removes what it has
// left.
func (s *server) end() error {
	deadline := time.Now().Add(endTime)
	for s.listens() && time.Now().Before(deadline) {
		time.Sleep(50 * time.Millisecond)
	}
	if s.listens() {
		return fmt.Errorf("the server on %s does not end", s.pin.Runs.Socket)
	}
	if s.ended != nil {
		s.why = <-s.ended
	}
	// One that was killed has left its socket.
	if err := os.Remove(s.pin.Runs.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
