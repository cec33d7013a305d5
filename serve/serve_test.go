package serve

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/internal/filelock"
)

// Whatever the path, the URI has it: unescaped it is the same, and slashes are left as they are.
func TestEscapeQuery(t *testing.T) {
	var all strings.Builder
	for c := 1; c < 256; c++ {
		all.WriteByte(byte(c))
	}
	for path, want := range map[string]string{"/run/vm-1_a.b~c.sock": "/run/vm-1_a.b~c.sock", "/a b&c+d": "/a%20b%26c%2Bd", "/ä": "/%C3%A4", all.String(): ""} {
		got := escapeQuery(path)
		back, err := url.PathUnescape(got)
		if err != nil || back != path || want != "" && got != want || strings.ContainsAny(got, "&#?+; \"") {
			t.Errorf("%q is escaped as %q, which is %q: %v", path, got, back, err)
		}
	}
}

// A socket that nobody listens on any more is replaced, one that is in use is not, and what is no
// socket stays. Only what was made is removed.
func TestListenUnix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	if _, err := listenUnix(path, false); err == nil {
		t.Error("a socket in use is replaced")
	}
	left.Close()
	l, err := listenUnix(path, false)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket is %v, %v", info, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("of somebody else"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := l.remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("what somebody else has put there is removed: %v", err)
	}
	if _, err := listenUnix(path, false); err == nil {
		t.Error("a file is replaced")
	}
}

// Who listens in a directory where another one begins to listen waits for that.
func TestListenBeside(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	if err == nil {
		defer dir.Close()
		err = filelock.Try(dir, filelock.Exclusive)
	}
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(100*time.Millisecond, func() { _ = filelock.Close(dir) })
	l, err := listenUnix(filepath.Join(dir.Name(), "sock"), false)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.remove(); err != nil {
		t.Error(err)
	}
}

// Each error is logged once a disk, and not more than maxFailures of them; the client gets each.
func TestFailures(t *testing.T) {
	var log bytes.Buffer
	f := &failures{log: slog.New(slog.NewTextHandler(&log, nil)), explain: func(err error) error { return err }, seen: map[string]bool{}}
	boom := errors.New("boom")
	for range 3 {
		for _, target := range []string{"vda", "vdb"} {
			if f.of(target)(boom) != boom {
				t.Error("another error")
			}
		}
	}
	if n := strings.Count(log.String(), "boom"); n != 2 {
		t.Errorf("logged %d times", n)
	}
	log.Reset()
	for i := range 3 { // each client reads another part of it
		place := damage.ErrorOf([]damage.Place{{Domain: "vm1", Point: "check1", File: "vm1/check1/vda.qcow2", Length: 65536, What: "differs"}})
		_ = f.of("vda")(fmt.Errorf("16 bytes at offset %d: %w", 16*i, place))
	}
	if n := strings.Count(log.String(), "differs"); n != 1 {
		t.Errorf("one damaged place is logged %d times", n)
	}
	log.Reset()
	for i := range 2 * maxFailures {
		_ = f.of("vda")(fmt.Errorf("boom %d", i))
	}
	if n := strings.Count(log.String(), "boom"); n != maxFailures-3 {
		t.Errorf("logged %d times, at most %d", n, maxFailures)
	}
}
