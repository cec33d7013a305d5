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
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/keep"
	"github.com/virtbackup/virtbackup/serve"
)

const (
	// startTime is how long a server may take until it listens: it opens the images of the chains.
	startTime = time.Minute
	// helloTime is how long one that listens may take to say so. One that hangs is replaced.
	helloTime = 20 * time.Second
	// endTime is how long one may take to end, before it is killed.
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
	if s.listens(ctx) {
		return false, nil
	}
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	if err := errors.Join(s.stop(), s.begin()); err != nil { // it may hang
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
	for !s.listens(ctx) {
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

// listens tells whether a server of this user answers on the socket.
func (s *server) listens(ctx context.Context) bool {
	conn, _, err := s.connect()
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(helloTime))
	defer panics.CloseAfter(ctx, conn)()
	hello := make([]byte, 8)
	_, err = io.ReadFull(conn, hello)
	return err == nil && string(hello) == "NBDMAGIC"
}

// errNotOurs says that a process of another user listens.
var errNotOurs = errors.New("a process of another user listens there")

// connect connects to the server. The directory of the socket belongs to QEMU's user, who may listen
// there, too: pid is that of a process of this user (SO_PEERCRED, unix(7)).
func (s *server) connect() (conn *net.UnixConn, pid int, err error) {
	conn, err = net.DialUnix("unix", nil, &net.UnixAddr{Name: s.pin.Runs.Socket, Net: "unix"})
	if err != nil {
		return nil, 0, err
	}
	var peer *unix.Ucred
	raw, err := conn.SyscallConn()
	if err == nil {
		var peerErr error
		err = raw.Control(func(fd uintptr) { peer, peerErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
		err = errors.Join(err, peerErr)
	}
	if err == nil && int(peer.Uid) != os.Geteuid() {
		err = errNotOurs
	}
	if err != nil {
		return nil, 0, errors.Join(err, conn.Close())
	}
	return conn, int(peer.Pid), nil
}

// stop ends a server that listens, at first as a person would. None is no error.
func (s *server) stop() error {
	conn, pid, err := s.connect()
	if err != nil {
		return nil // begin says it better
	}
	defer conn.Close()
	// A pidfd stays the process's. That it serves this pin is in its command line.
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil // it has ended
	}
	defer unix.Close(fd)
	if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err != nil || !strings.Contains(string(line), "\x00--pin\x00"+s.pin.ID+"\x00") {
		return errors.Join(err, fmt.Errorf("process %d listens on %s, and is not the server of the pin", pid, s.pin.Runs.Socket))
	}
	for _, signal := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := unix.PidfdSendSignal(fd, signal, nil, 0); err != nil {
			return nil // it has ended
		}
		if gone, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(endTime/time.Millisecond)); err == nil && gone > 0 {
			return nil
		}
	}
	return fmt.Errorf("the server on %s (process %d) does not end", s.pin.Runs.Socket, pid)
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
	f, err := localfile.OpenRegular(s.log())
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
	ctx, cancel := context.WithTimeout(context.Background(), endTime)
	defer cancel()
	for s.listens(ctx) {
		time.Sleep(50 * time.Millisecond)
	}
	if err := s.stop(); err != nil {
		return err
	}
	if s.ended != nil {
		s.why = <-s.ended
	}
	return s.removeDead()
}

// removeDead removes the socket that a killed server has left, on which nobody listens.
func (s *server) removeDead() error {
	conn, err := net.Dial("unix", s.pin.Runs.Socket)
	if err == nil {
		return conn.Close()
	}
	if errors.Is(err, unix.ECONNREFUSED) {
		err = os.Remove(s.pin.Runs.Socket)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// The exit codes of serve that tell that trying again is of no use.
const (
	exitDamaged  = 5
	exitNotFound = 6
)

// hopeless tells whether the last server has ended because the point cannot be served, now or later.
func (s *server) hopeless() bool {
	var exit *exec.ExitError
	return errors.As(s.why, &exit) && (exit.ExitCode() == exitDamaged || exit.ExitCode() == exitNotFound)
}
