package repository

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
)

// markPrefix begins the names of marks: REPO/DOMAIN/.mark-frozen.
const markPrefix = ".mark-"

// MarkPath is where a mark of a domain is, or would be.
func (r *Repository) MarkPath(domain, name string) string {
	return filepath.Join(r.domainDir(domain), markPrefix+name)
}

// MarkHalfRestored is the mark of a restore in place that writes to the disks of the domain. Where
// it is left, that restore was killed, and they hold a mixture of two states. Its content is
// JSON with the id of the point: {"point": "check3"}.
const MarkHalfRestored = "in-place"

// MarkPutBack is the mark of a domain whose disks were put back to a point that is crash
// consistent, and that was not seen running since: how its guest has shut down before says nothing
// of its file systems.
const MarkPutBack = "put-back"

// SetMark leaves a note for the next run, in case this one is killed: what it is about
// to do to the guest. A mark stands until ClearMark.
//
// It is not synced: the page cache outlives the process, and what ends the host
// ends the guest, too. For the same reason a mark that was cut short, or is
// empty, still stands.
func (l *Lock) SetMark(name string, data []byte) error {
	path, err := l.markPath(name)
	if err != nil {
		return fmt.Errorf("set mark %q: %w", name, err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW|unix.O_NONBLOCK, localfile.FileMode)
	if err != nil {
		return fmt.Errorf("set mark: %w", err)
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("set mark: %w", errors.Join(err, os.Remove(path)))
	}
	return nil
}

// SetDurableMark is SetMark for what outlives the host: the mark is on stable storage when it
// returns.
func (l *Lock) SetDurableMark(name string, data []byte) error {
	path, err := l.markPath(name)
	if err == nil {
		err = localfile.Replace(path+".new", path, data)
	}
	if err != nil {
		return fmt.Errorf("set mark %q: %w", name, err)
	}
	return nil
}

// Mark returns what SetMark left; ok tells whether there is such a mark.
func (l *Lock) Mark(name string) (data []byte, ok bool, err error) {
	path, err := l.markPath(name)
	if err == nil {
		data, err = localfile.ReadSmall(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read mark %q: %w", name, err)
	}
	return data, true, nil
}

// ClearMark removes a mark; no error if there is none.
func (l *Lock) ClearMark(name string) error {
	path, err := l.markPath(name)
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("clear mark %q: %w", name, err)
	}
	return nil
}

// ClearDurableMark is ClearMark for a mark of SetDurableMark: a power cut does not bring it back.
func (l *Lock) ClearDurableMark(name string) error {
	err := l.ClearMark(name)
	if err == nil {
		err = localfile.SyncDir(l.repo.domainDir(l.domain))
	}
	return err
}

func (l *Lock) markPath(name string) (string, error) {
	if err := l.check(); err != nil {
		return "", err
	}
	if err := manifest.ValidName(name); err != nil {
		return "", err
	}
	return l.repo.MarkPath(l.domain, name), nil
}
