package repository

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/filelock"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
)

// ReadersName is the file, beside a domain's points, that those who read images lock
// together, and those who replace or delete a point alone. It is empty.
const ReadersName = "readers"

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
		defer func() { err = errors.Join(err, filelock.Close(file)) }()
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
		err = filelock.Wait(ctx, f, filelock.Shared, -1)
		if err == nil && filelock.IsAt(f, path) {
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
	return "wait until they have ended, and try again"
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
	defer func() { err = errors.Join(err, filelock.Close(f)) }()
	err = filelock.Wait(ctx, f, filelock.Exclusive, wait)
	if errors.Is(err, filelock.ErrHeld) {
		return &ReadersError{l.domain, filelock.Holders(f)}
	}
	if err != nil {
		return fmt.Errorf("exclude readers of domain %s: %w", l.domain, err)
	}
	return do()
}
