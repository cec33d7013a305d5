package guestfs

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/localfile"
)

// cacheDir is where libguestfs keeps its appliance, which takes 10 seconds and 370 MiB to build.
//
// Not libguestfs's own /var/tmp/.guestfs-UID, which any user of the host can make before: that stops
// this user. The kernel of the appliance is what stands between a guest and this host, so no other
// user may write to the directory or to one above. Where there is no such directory the appliance is
// built in temporary, and goes with that.
func cacheDir(temporary string, log *slog.Logger) string {
	dir, err := makeCache()
	if err != nil {
		log.Warn(fmt.Sprintf("libguestfs's appliance is not kept and will be built anew: %v", err))
		return temporary
	}
	removeHalfBuilt(filepath.Join(dir, ".guestfs-"+strconv.Itoa(os.Geteuid())))
	return dir
}

// makeCache makes the directory, if need be.
func makeCache() (string, error) {
	parent, err := cacheParent()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(parent, "virtbackup")
	if err := localfile.MakeDir(dir); err != nil {
		return "", err
	}
	// Links are resolved here, once: what a path leads to is looked at below.
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", err
	}
	return real, isPrivate(real)
}

// cacheParent is where programs of this user keep what can be made again (XDG Base Directory).
func cacheParent() (string, error) {
	if os.Geteuid() == 0 && os.Getenv("XDG_CACHE_HOME") == "" {
		return "/var/cache", nil
	}
	return os.UserCacheDir()
}

// isPrivate sees that no user but this one and root can change what is in a directory, or give its
// path to something else. The path has no links.
func isPrivate(dir string) error {
	for at := dir; ; at = filepath.Dir(at) {
		var stat unix.Stat_t
		if err := unix.Lstat(at, &stat); err != nil {
			return &fs.PathError{Op: "lstat", Path: at, Err: err}
		}
		ours := int(stat.Uid) == os.Geteuid()
		// In a directory with the sticky bit nobody can rename what belongs to another user.
		sticky := at != dir && stat.Mode&unix.S_ISVTX != 0
		switch {
		case !ours && (at == dir || stat.Uid != 0):
			return fmt.Errorf("%s belongs to another user (%d)", at, stat.Uid)
		case stat.Mode&0o022 != 0 && !sticky:
			return fmt.Errorf("other users can write to %s", at)
		case at == "/":
			return nil
		}
	}
}

// removeHalfBuilt removes appliances that were being built when their run was interrupted: supermin,
// which holds the lock meanwhile, builds appliance.d.RANDOM and then renames it.
func removeHalfBuilt(dir string) {
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return // nothing was built
	}
	if err == nil {
		defer lock.Close() // and with it the lock (fcntl(2))
		err = unix.FcntlFlock(lock.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	}
	if err != nil {
		return // another run builds one
	}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "appliance.d.") {
			_ = os.RemoveAll(filepath.Join(dir, e.Name())) // the next run tries again
		}
	}
}
