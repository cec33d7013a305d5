package localfile

import (
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// Only a socket is given away: no file of root's that somebody has put in its place, nor one that a link leads to.
func TestGiveSocket(t *testing.T) {
	dir := t.TempDir()
	socket, file, link := filepath.Join(dir, "socket"), filepath.Join(dir, "file"), filepath.Join(dir, "link")
	l, err := net.Listen("unix", socket)
	must(t, err)
	defer l.Close()
	must(t, os.WriteFile(file, nil, 0o600))
	must(t, os.Symlink(socket, link))
	const other = 12345
	for _, path := range []string{file, link} {
		if err := GiveSocket(path, other, other); err == nil {
			t.Errorf("%s was given away", path)
		}
		info, err := os.Lstat(path)
		must(t, err)
		if info.Sys().(*syscall.Stat_t).Uid == other {
			t.Errorf("%s has another owner", path)
		}
	}
	must(t, GiveSocket(socket, other, other))
	info, err := os.Lstat(socket)
	must(t, err)
	if owner := info.Sys().(*syscall.Stat_t); owner.Uid != other || owner.Gid != other {
		t.Errorf("the socket has the owner %d:%d", owner.Uid, owner.Gid)
	}
}
