package serve

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/filelock"
	"github.com/virtbackup/virtbackup/internal/localfile"
)

// maxSocket is how long the path of a socket may be, in bytes (unix(7), without the zero byte).
const maxSocket = 107

// lockTime is how long it waits for others that listen in the same directory, some milliseconds each:
// several begin at once when a host starts.
const lockTime = 5 * time.Second

// listener is where clients connect.
type listener struct {
	net.Listener
	uri   func(export string) string
	clean func() error // removes what listening has made
}

// listen begins to listen where the request says.
func (r Request) listen(point string) (*listener, error) {
	if r.Listen != "" {
		return listenTCP(r.Listen)
	}
	if r.Socket != "" {
		return listenUnix(r.Socket, r.ForQEMU)
	}
	path, clean, err := defaultSocket(r.Domain, point)
	if err != nil {
		return nil, err
	}
	l, err := listenUnix(path, r.ForQEMU)
	if err != nil {
		return nil, errors.Join(err, clean())
	}
	removeSocket := l.clean
	l.clean = func() error { return errors.Join(removeSocket(), clean()) }
	return l, nil
}

// remove ends listening and removes what it has made.
func (l *listener) remove() error {
	l.Close() // by the server, mostly
	return l.clean()
}

// listenTCP listens on an address of this host alone: nobody is asked who they are, and what they
// read is not encrypted.
func listenTCP(address string) (*listener, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fail.Errorf(fail.Usage, "--listen 127.0.0.1:10809", "--listen takes an address and a port: %w", err)
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	if ip, err := netip.ParseAddr(host); err != nil || !ip.IsLoopback() {
		return nil, fail.Errorf(fail.Usage, "--listen 127.0.0.1:PORT, and reach it from elsewhere by ssh -L PORT:127.0.0.1:PORT HOST",
			"%q is not an address of this host alone: NBD has neither passwords nor encryption here", host)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return nil, fail.Errorf(fail.Usage, "--listen 127.0.0.1:10809", "%q is not the number of a port (%d is the last)", port, math.MaxUint16)
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, fail.WithHint(fmt.Errorf("listen on %s: another program does", address), "name another port, or 0 for any that is free")
	}
	if err != nil {
		return nil, fmt.Errorf("--listen: %w", err)
	}
	return &listener{Listener: l, clean: func() error { return nil }, uri: func(export string) string {
		return (&url.URL{Scheme: "nbd", Host: l.Addr().String(), Path: "/" + export}).String()
	}}, nil
}

// listenUnix listens on a socket that only this user can connect to. One that a killed process has
// left is replaced. The owner of its directory can connect to it too if it is forOwner.
func listenUnix(path string, forOwner bool) (l *listener, err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if len(path) > maxSocket {
		return nil, fail.Errorf(fail.Usage, "name a shorter one with --socket", "the path of the socket %s has %d bytes, and may have %d", path, len(path), maxSocket)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, fail.WithHint(fmt.Errorf("--socket: %w", err), "make the directory, or name a socket elsewhere")
	}
	defer dir.Close()
	// Two of us must not both remove what the killed one has left: the second would remove the
	// socket of the first.
	if err := filelock.Wait(context.Background(), dir, filelock.Exclusive, lockTime); errors.Is(err, filelock.ErrHeld) {
		return nil, fail.WithHint(fmt.Errorf("listen on %s: another process has locked its directory", path), "name a socket in a directory of your own with --socket")
	} else if err != nil {
		return nil, err
	}
	socket, err := bind(path)
	if errors.Is(err, unix.EADDRINUSE) && abandoned(path) {
		if err = os.Remove(path); err == nil {
			socket, err = bind(path)
		}
	}
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return nil, fail.WithHint(fmt.Errorf("listen on %s: there is something of this name, which is in use or no socket", path), "name another one with --socket")
	case err != nil:
		return nil, fmt.Errorf("--socket: %w", err)
	}
	if forOwner {
		if err := giveToOwner(dir, path); err != nil {
			return nil, errors.Join(err, socket.remove())
		}
	}
	return socket, nil
}

// giveToOwner gives a socket to the owner of its directory, who may be anyone.
func giveToOwner(dir *os.File, path string) error {
	info, err := dir.Stat()
	if err != nil {
		return err
	}
	owner := info.Sys().(*syscall.Stat_t)
	if int(owner.Uid) == os.Geteuid() {
		return nil
	}
	return localfile.GiveSocket(path, int(owner.Uid), int(owner.Gid))
}

// bind makes a socket of this user alone.
func bind(path string) (*listener, error) {
	old := unix.Umask(0o177)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	unix.Umask(old)
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // another one may be there by then
	made, err := os.Lstat(path)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &listener{Listener: l, clean: func() error { return removeSame(path, made) }, uri: func(export string) string {
		return (&url.URL{Scheme: "nbd+unix", Path: "/" + export, RawQuery: "socket=" + escapeQuery(path)}).String()
	}}, nil
}

// escapeQuery escapes a path as the value of a parameter of a URI. A slash stays as it is, as people
// write it: RFC 3986 (3.4) has it in queries. A plus is escaped, which some take for a space.
func escapeQuery(path string) string {
	var b strings.Builder
	for _, c := range []byte(path) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-._~/", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// removeSame removes a file if it is still the one that was made.
func removeSame(path string, made fs.FileInfo) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(info, made) {
		return nil
	}
	if err == nil {
		err = os.Remove(path)
	}
	return err
}

// abandoned tells whether a path is that of a socket on which nobody listens any more.
func abandoned(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Type() != fs.ModeSocket {
		return false
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
	}
	return errors.Is(err, unix.ECONNREFUSED)
}

// defaultSocket is the path of a socket for a point, in a directory of this user alone, which is
// made. clean removes the directory if nothing is in it.
func defaultSocket(domain, point string) (path string, clean func() error, err error) {
	parent := "/run"
	if os.Geteuid() != 0 {
		if parent = os.Getenv("XDG_RUNTIME_DIR"); parent == "" {
			return "", nil, fail.Errorf(fail.Usage, "--socket PATH", "there is no directory for the socket: XDG_RUNTIME_DIR is not set")
		}
	}
	dir := filepath.Join(parent, "virtbackup")
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", nil, fail.WithHint(err, "name a socket elsewhere with --socket")
	}
	return filepath.Join(dir, domain+"-"+point+".sock"), func() error { return localfile.RemoveDirs([]string{dir}) }, nil
}
