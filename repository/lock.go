package repository

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/filelock"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
)

const lockName = "lock"

// lockAttempts bounds the retries after another process removed the directory
// or the lock file between our steps. Each retry means that such a process has
// ended a run without a point at that moment, so a handful would do.
const lockAttempts = 50

// Lock holds a domain of the repository for one run. The kernel releases it
// when the process ends, however it ends.
type Lock struct {
	repo   *Repository
	domain string
	file   *os.File
	made   bool // this lock made the directory

	mu       sync.Mutex
	unlocked bool
}

// LockedError says who holds the lock. PID is 0 if the holder has not written its
// own yet.
type LockedError struct {
	Domain string
	PID    int
	Host   string
	Since  time.Time
}

// Error names the holder.
func (e *LockedError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("domain %s is locked by another run", e.Domain)
	}
	return fmt.Sprintf("domain %s is locked by process %d on %s since %s",
		e.Domain, e.PID, e.Host, manifest.TimeText(e.Since))
}

// Kind is fail.Locked.
func (e *LockedError) Kind() fail.Kind { return fail.Locked }

// Hint says to wait.
func (e *LockedError) Hint() string {
	return "another run of virtbackup works on this domain: wait until it has ended"
}

// Lock takes the lock of a domain without waiting and makes the domain's
// directory where it is absent. The error is a *LockedError where another run
// has it, in this process or another.
func (r *Repository) Lock(domain string) (*Lock, error) {
	if err := manifest.ValidDomain(domain); err != nil {
		return nil, err
	}
	made := false
	for range lockAttempts {
		dirMade, err := r.makeDomainDir(domain)
		if err != nil {
			return nil, lockError(domain, err)
		}
		made = made || dirMade
		f, err := r.tryLock(domain)
		if errors.Is(err, errLockMoved) {
			continue
		}
		if err != nil {
			return nil, lockError(domain, err)
		}
		l := &Lock{repo: r, domain: domain, file: f, made: made}
		// The run that made the repository may have failed and removed it.
		if err := r.check(); err != nil {
			return nil, lockError(domain, errors.Join(err, l.Unlock()))
		}
		filelock.WriteOwner(f)
		return l, nil
	}
	return nil, lockError(domain, errLockMoved)
}

func lockError(domain string, err error) error {
	switch {
	case fail.Is(err, fail.Locked):
		return err
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("lock domain %s: the repository is on a file system mounted read-only: %w", domain, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("lock domain %s: this user may not write to the repository: %w", domain, err)
	}
	return fmt.Errorf("lock domain %s: %w", domain, err)
}

func (r *Repository) makeDomainDir(domain string) (made bool, err error) {
	err = os.Mkdir(r.domainDir(domain), localfile.DirMode)
	if !errors.Is(err, fs.ErrExist) {
		return err == nil, err
	}
	info, err := os.Lstat(r.domainDir(domain))
	if err == nil && !info.IsDir() { // a symbolic link may lead outside
		err = &fs.PathError{Op: "open", Path: r.domainDir(domain), Err: unix.ENOTDIR}
	}
	if errors.Is(err, fs.ErrNotExist) { // gone again: tryLock sees that, too
		err = nil
	}
	return false, err
}

var errLockMoved = errors.New("the lock file was replaced repeatedly")

// tryLock opens and locks the lock file. On errLockMoved the caller tries again.
func (r *Repository) tryLock(domain string) (*os.File, error) {
	f, err := r.openLock(domain)
	if err != nil {
		return nil, err
	}
	if err := r.lockOpened(domain, f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (r *Repository) lockPath(domain string) string {
	return filepath.Join(r.domainDir(domain), lockName)
}

func (r *Repository) openLock(domain string) (*os.File, error) {
	f, err := os.OpenFile(r.lockPath(domain), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, localfile.FileMode) // os adds O_CLOEXEC
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errLockMoved
	}
	return f, err
}

// lockOpened locks the lock file, as it was opened. The run that held the lock at that
// time may have removed the file since (see removeIfEmpty), and a lock on a file without
// a name would keep nobody out: errLockMoved.
func (r *Repository) lockOpened(domain string, f *os.File) error {
	err := filelock.Try(f, filelock.Exclusive)
	if errors.Is(err, filelock.ErrHeld) {
		o := filelock.ReadOwner(f)
		return &LockedError{domain, o.PID, o.Host, o.Started}
	}
	if err == nil && !filelock.IsAt(f, r.lockPath(domain)) {
		err = errLockMoved
	}
	return err
}

// Repository is the repository that the lock belongs to.
func (l *Lock) Repository() *Repository { return l.repo }

// dir is the directory of the locked domain.
func (l *Lock) dir() string { return l.repo.domainDir(l.domain) }

// Domain is the name of the locked domain.
func (l *Lock) Domain() string { return l.domain }

// Unlock releases the lock; more calls do nothing. A directory that this lock
// made and that holds nothing but lock files, and a list of no identities, is removed.
func (l *Lock) Unlock() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.unlocked {
		return nil
	}
	l.unlocked = true
	// So that the next holder is never taken for this one.
	err := l.file.Truncate(0)
	if l.made {
		err = errors.Join(err, l.removeIfEmpty())
	}
	if err := errors.Join(err, filelock.Close(l.file)); err != nil {
		return fmt.Errorf("unlock domain %s: %w", l.domain, err)
	}
	return nil
}

// removeIfEmpty runs under the lock. A process that opened the lock file before it was
// removed finds in tryLock that the name is gone and starts again; one that makes a new
// lock file in between keeps the directory, as rmdir fails.
func (l *Lock) removeIfEmpty() error {
	dir := l.repo.domainDir(l.domain)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != lockName && e.Name() != ReadersName && (e.Name() != instants.FileName || !instants.Unissued(dir)) {
			return nil
		}
	}
	for _, name := range []string{instants.FileName, ReadersName} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := os.Remove(filepath.Join(dir, lockName)); err != nil {
		return err
	}
	err = unix.Rmdir(dir)
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

func (l *Lock) check() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.unlocked {
		return fmt.Errorf("domain %s: the lock was released", l.domain)
	}
	return nil
}

// Leftovers lists the names (".partial-…") of what killed runs left behind.
func (l *Lock) Leftovers() ([]string, error) {
	entries, err := os.ReadDir(l.repo.domainDir(l.domain))
	if err != nil {
		return nil, fmt.Errorf("list leftovers: %w", err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), partialPrefix) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// RemoveLeftover removes one of the names that Leftovers listed, with all that is in it.
//
// The names in the domain's directory are put on stable storage first. The run that left it may
// have died between a rename, or an exchange, and its fsync: then storage still has these files
// as those of a point, and a power cut would bring the point back without them.
func (l *Lock) RemoveLeftover(name string) error {
	if err := localfile.SyncDir(l.dir()); err != nil {
		return fmt.Errorf("remove leftover: %w", err)
	}
	return l.removeAside(name)
}

// removeAside is RemoveLeftover for a name that is durable.
func (l *Lock) removeAside(name string) error {
	if err := l.check(); err != nil {
		return fmt.Errorf("remove %q: %w", name, err)
	}
	rest, ok := strings.CutPrefix(name, partialPrefix)
	if !ok || strings.Contains(rest, "/") {
		return fmt.Errorf("remove %q: not a leftover", name)
	}
	// RemoveAll does not follow symbolic links.
	if err := os.RemoveAll(filepath.Join(l.dir(), name)); err != nil {
		return fmt.Errorf("remove leftover: %w", err)
	}
	return nil
}
