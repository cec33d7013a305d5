package repository

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
)

// ReadersName is the file, beside a domain's points, that those who read images lock
// together, and those who replace or delete a point alone. It is empty.
const ReadersName = "readers"

// readersPoll is how often a lock that another process holds is tried again. A reader
// between two restores is away for some tens of milliseconds.
const readersPoll = 10 * time.Millisecond

// readTries bounds how often something is read again that was replaced meanwhile.
const readTries = 5

// Read calls do, which reads points of a domain: none of them is replaced or deleted until
// it returns. Where that cannot be ensured, as nobody may write to the repository from here,
// do is called again if what it found to be damaged was replaced meanwhile.
func (r *Repository) Read(ctx context.Context, domain string, do func() error) (err error) {
	file, err := r.shareReaders(ctx, domain)
	if err != nil {
		return err
	}
	if file != nil {
		defer func() { err = errors.Join(err, unlockReaders(file)) }()
		return do()
	}
	for range readTries {
		before := r.state(domain)
		if err = do(); !mayBeReplaced(err) || slices.Equal(r.state(domain), before) {
			break
		}
	}
	return err
}

// mayBeReplaced tells whether an error may be one of a point that was replaced while it was
// read. On NFS a file that another host has removed is ESTALE.
func mayBeReplaced(err error) bool {
	return fail.Is(err, fail.Damaged) || errors.Is(err, unix.ESTALE)
}

// state changes with each point that is added, replaced or deleted.
func (r *Repository) state(domain string) (state []string) {
	ids, err := r.pointIDs(domain)
	if err != nil {
		return nil
	}
	slices.Sort(ids)
	for _, id := range ids {
		data, err := localfile.ReadSmall(filepath.Join(r.PointDir(domain, id), manifest.FileName))
		state = append(state, fmt.Sprintf("%s %s %v", id, digest.Of(data), err))
	}
	return state
}

// shareReaders locks the file of the readers together with others. The result is nil where
// there can be no lock: the domain has no directory, or this user may not write to it and
// the file is not there, or the file system has no locks.
func (r *Repository) shareReaders(ctx context.Context, domain string) (*os.File, error) {
	if manifest.ValidDomain(domain) != nil {
		return nil, nil
	}
	if info, err := os.Lstat(r.domainDir(domain)); err != nil || !info.IsDir() { // a symbolic link may lead outside
		return nil, nil
	}
	path := filepath.Join(r.domainDir(domain), ReadersName)
	for {
		f, err := openReaders(path)
		if err != nil {
			return nil, nil // what reads the points will say why
		}
		err = pollLock(ctx, f, unix.LOCK_SH, -1)
		if err == nil && stillAt(f, path) {
			return f, nil
		}
		f.Close()
		switch {
		case err == nil: // removed with the domain, which may have been made anew
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		default:
			return nil, nil
		}
	}
}

func openReaders(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, localfile.FileMode)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
		return os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	}
	return f, err
}

// unlockReaders releases the lock and closes the file. To close it is not enough: a process
// that is being started has it open, too, until execve(2).
func unlockReaders(f *os.File) error {
	return errors.Join(flock(f, unix.LOCK_UN), f.Close())
}

// errStillLocked says that others held a lock for as long as was waited.
var errStillLocked = errors.New("locked")

// pollLock locks a file, and waits at most that long for others; a negative time is for
// ever.
func pollLock(ctx context.Context, f *os.File, how int, wait time.Duration) error {
	deadline := time.Now().Add(wait)
	for {
		err := flock(f, how|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		if wait >= 0 && !time.Now().Before(deadline) {
			return errStillLocked
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(readersPoll):
		}
	}
}

// ReadersError says that others read a domain's points, so that none was replaced or
// deleted.
type ReadersError struct {
	Domain  string
	Holders []string // for people; empty where they are unknown, as on another host
}

// Error names those who read.
func (e *ReadersError) Error() string {
	by := "another process"
	if len(e.Holders) > 0 {
		by = strings.Join(e.Holders, ", ")
	}
	return fmt.Sprintf("points of domain %s are being read by %s", e.Domain, by)
}

// Kind is fail.Locked.
func (e *ReadersError) Kind() fail.Kind { return fail.Locked }

// Hint says to wait.
func (e *ReadersError) Hint() string {
	return "wait until they have ended, and try again; the next prune goes on"
}

// ExcludeReaders calls do while nobody reads the domain's points. It waits at most that long
// for those who do, then the error is a *ReadersError, and do is not called.
func (l *Lock) ExcludeReaders(ctx context.Context, wait time.Duration, do func() error) (err error) {
	if err := l.check(); err != nil {
		return err
	}
	path := filepath.Join(l.dir(), ReadersName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, localfile.FileMode)
	if localfile.IsFull(err) {
		// It is not there, so nobody has it locked. Who reads points from now on cannot make it
		// either; and what is to be done may be to free space.
		return do()
	}
	if err != nil {
		return fmt.Errorf("exclude readers of domain %s: %w", l.domain, err)
	}
	defer func() { err = errors.Join(err, unlockReaders(f)) }()
	err = pollLock(ctx, f, unix.LOCK_EX, wait)
	if errors.Is(err, errStillLocked) {
		return &ReadersError{l.domain, holders(f)}
	}
	if err != nil {
		return fmt.Errorf("exclude readers of domain %s: %w", l.domain, err)
	}
	return do()
}

// holders names the processes of this host that have the file locked, by /proc/locks.
func holders(f *os.File) (names []string) {
	info, err := f.Stat()
	locks, readErr := os.ReadFile("/proc/locks")
	if err != nil || readErr != nil {
		return nil
	}
	// 1: FLOCK  ADVISORY  READ 1234 08:01:5678 0 EOF   (proc(5); the last number is the inode's)
	inode := fmt.Sprintf(":%d", info.Sys().(*syscall.Stat_t).Ino)
	for _, line := range strings.Split(string(locks), "\n") {
		fields := strings.Fields(line)
		if len(fields) < 6 || fields[1] != "FLOCK" || !strings.HasSuffix(fields[5], inode) {
			continue
		}
		pid, err := strconv.Atoi(fields[4])
		if err != nil || pid <= 0 || !hasOpen(pid, info) {
			continue
		}
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if name := fmt.Sprintf("process %d (%s)", pid, strings.TrimSpace(string(comm))); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// hasOpen tells whether a process has a file open. Inodes of other file systems have the
// same numbers. If this user may not look (ptrace(2), access mode checking), the number has to
// do.
func hasOpen(pid int, file os.FileInfo) bool {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrPermission) {
		return true
	}
	if err != nil {
		return false
	}
	return slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		path := filepath.Join(dir, e.Name())
		if target, err := os.Readlink(path); err != nil || filepath.Base(target) != ReadersName {
			return false
		}
		open, err := os.Stat(path)
		return err == nil && os.SameFile(open, file)
	})
}
