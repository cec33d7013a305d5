// Package description knows repository.json, which makes a directory a repository: its UUID,
// its format, and the place where it was last.
package description

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/internal/fileid"
	"github.com/virtbackup/virtbackup/internal/filelock"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
)

// TemporaryPrefix begins the names of files that become repository.json, or were it.
const TemporaryPrefix = ".repository.json-"

// Description is the content of repository.json.
type Description struct {
	Format  int       `json:"format"`
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
	// FormerIDs are those that the repository had before it was adopted as a copy.
	FormerIDs []string `json:"former_ids,omitempty"`
	// Place is where the directory was when that was noted last: a hint that it
	// was copied or moved since.
	Place *fileid.ID `json:"place,omitempty"`
}

// Read reads the repository.json in dir. Damage is a *damage.Error.
func Read(dir string) (Description, error) {
	path := filepath.Join(dir, manifest.DescriptionName)
	data, err := localfile.ReadSmall(path)
	if err != nil {
		return Description{}, err
	}
	d, err := parse(data)
	if err != nil && !errors.Is(err, manifest.ErrNewerFormat) {
		err = &damage.Error{Points: []damage.Point{{File: manifest.DescriptionName, Err: fmt.Errorf("%s: %w", path, err)}}}
	}
	return d, err
}

func parse(data []byte) (Description, error) {
	var d Description
	if digest.EndsJSON(data) {
		if err := digest.ParseJSON(data, &d); err != nil {
			return d, err
		}
	} else if err := json.Unmarshal(data, &d); err != nil { // format 1, or written anew by hand
		return d, fmt.Errorf("parse: %w", err)
	}
	if err := manifest.CheckFormat(d.Format); err != nil {
		return d, err
	}
	for _, id := range append([]string{d.ID}, d.FormerIDs...) {
		if !manifest.ValidUUID(id) {
			return d, fmt.Errorf("%q is not a UUID", id)
		}
	}
	return d, nil
}

// Create puts a new one in place, with a UUID of its own, or leaves the one that
// another process put there at the same moment.
func Create(dir string) (isNew bool, err error) {
	d := Description{Format: manifest.Format, ID: NewID(), Created: time.Now().UTC().Truncate(time.Second)}
	if d.Place, err = FindPlace(dir); err != nil {
		return false, err
	}
	err = d.put(dir, localfile.RenameExclusive)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return false, err
	}
	return err == nil, localfile.SyncDir(dir)
}

// Change replaces repository.json by a changed one of today's format, on stable
// storage. Those who change it wait for one another, so that no change undoes another.
func Change(dir string, change func(*Description)) (err error) {
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	d, err := Read(dir)
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

// lock waits for whoever changes repository.json, which takes some
// milliseconds. The file is removed with the lock: it would keep the directory of an
// unused repository from being removed.
func lock(dir string) (unlock func() error, err error) {
	path := filepath.Join(dir, TemporaryPrefix+"lock")
	f, err := filelock.Create(path, localfile.FileMode)
	if err != nil {
		return nil, err
	}
	return func() error { return errors.Join(os.Remove(path), f.Close()) }, nil
}

// put writes repository.json to a file of another name, and gives it its own.
func (d Description) put(dir string, rename func(from, to string) error) error {
	data, err := digest.EncodeJSON(d)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, TemporaryPrefix+"*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // no-op once renamed
	if err := localfile.Finish(f, data); err != nil {
		return err
	}
	return rename(f.Name(), filepath.Join(dir, manifest.DescriptionName))
}

// NewID returns a random UUID (RFC 9562, version 4).
func NewID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails since Go 1.24
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
