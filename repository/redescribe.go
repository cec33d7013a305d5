package repository

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/eintr"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
)

// changeDescription replaces repository.json by a changed one of today's format, on stable
// storage. Those who change it wait for one another, so that no change undoes another.
func changeDescription(dir string, change func(*description)) (err error) {
	unlock, err := lockDescription(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	d, err := readDescription(dir)
	if err != nil {
		return err
	}
	change(&d)
	d.Format = manifest.Format
	if err := d.put(dir, os.Rename); err != nil {
		return err
	}
	return localfile.SyncDir(dir)
}

// lockDescription waits for whoever changes repository.json, which takes some
// milliseconds. The file is removed with the lock: it would keep the directory of an
// unused repository from being removed.
func lockDescription(dir string) (unlock func() error, err error) {
	path := filepath.Join(dir, temporaryPrefix+"lock")
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, localfile.FileMode)
		if err != nil {
			return nil, err
		}
		err = eintr.Retry(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX) })
		if err != nil {
			return nil, errors.Join(&fs.PathError{Op: "flock", Path: path, Err: err}, f.Close())
		}
		if stillAt(f, path) {
			return func() error { return errors.Join(os.Remove(path), f.Close()) }, nil
		}
		if err := f.Close(); err != nil { // whoever held it before has removed it
			return nil, err
		}
	}
}

// raiseFormat makes a repository one of today's format, before files are written that older
// versions misread: hash lists of format 2 in points of format 1.
func (r *Repository) raiseFormat() error {
	d, err := readDescription(r.dir)
	if err != nil || d.Format >= manifest.Format {
		return err
	}
	_, err = r.NotePlace() // format 1 did not note it, so it cannot have moved
	return err
}
