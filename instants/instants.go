package instants

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
)

// FileName is the file, beside a domain's points, that lists the identities
// which the repository has issued for the domain.
const FileName = "instants.json"

// TemporaryName is replaced under the domain's lock, so one name is enough.
const TemporaryName = ".instants.json"

// DamagedName is that of a list that was damaged when another was begun.
const DamagedName = FileName + ".damaged"

// State is what may be done with the checkpoint of an instant.
type State string

const (
	// Issued: the checkpoint may be a base, and is defined again where libvirt has
	// lost its record.
	Issued State = ""
	// Lost: libvirt does not list the checkpoint, and its bitmaps are gone.
	Lost State = "lost"
	// Retired: the checkpoint is to be deleted. It is no base, and never defined
	// again.
	Retired State = "retired"
)

// Instant is one instant of a domain that a run of this repository has begun to back
// up. Its identity is random: by it, and never by a name alone, the checkpoint, the
// job and the files of that run are known to be ours.
type Instant struct {
	Identity string `json:"identity"` // 16 hex digits
	Point    string `json:"point"`    // id of the point
	// Checkpoint: libvirt has, or may have, a checkpoint of this identity.
	Checkpoint bool      `json:"checkpoint"`
	State      State     `json:"state,omitempty"`
	Time       time.Time `json:"time"` // when it was issued, UTC; for people
	// Place is where the repository was then (repository.NotePlace). What was issued
	// elsewhere may be needed by the repository that this one is a copy of.
	Place   string  `json:"place,omitempty"`
	Process Process `json:"process"` // that made the run
}

// CheckpointName is that of the instant.
func (i Instant) CheckpointName() string { return manifest.CheckpointName(i.Point, i.Identity) }

// List is the content of instants.json.
type List struct {
	Format int `json:"format"`
	// Highest is the highest number that a point of the domain has ever had. It is
	// never used again.
	Highest int       `json:"highest"`
	Issued  []Instant `json:"issued"`
}

// Find returns the instant of an identity.
func (is List) Find(identity string) (Instant, bool) {
	n := slices.IndexFunc(is.Issued, func(i Instant) bool { return i.Identity == identity })
	if n < 0 {
		return Instant{}, false
	}
	return is.Issued[n], true
}

// DamagedError says that instants.json cannot be used.
type DamagedError struct{ error }

// Unwrap gives errors.Is and errors.As the cause.
func (e *DamagedError) Unwrap() error { return e.error }

// Read reads the list in the directory of a domain; an absent one is empty. The
// error is a *DamagedError where the list is damaged.
func Read(dir string) (List, error) {
	domain := filepath.Base(dir)
	data, err := localfile.ReadSmall(filepath.Join(dir, FileName))
	if errors.Is(err, fs.ErrNotExist) {
		return List{}, nil
	}
	// A read that fails now may succeed the next time: only what was read can be
	// damaged.
	if err != nil && !errors.Is(err, localfile.ErrNotRegular) {
		return List{}, fmt.Errorf("read %s of domain %s: %w", FileName, domain, err)
	}
	var is List
	if err == nil {
		is, err = parse(data)
	}
	if errors.Is(err, manifest.ErrNewerFormat) {
		return List{}, fmt.Errorf("read %s of domain %s: %w", FileName, domain, err)
	}
	if err != nil {
		return List{}, &DamagedError{fmt.Errorf("%s of domain %s is damaged: %w", FileName, domain, err)}
	}
	return is, nil
}

// parse reads the content of instants.json strictly.
func parse(data []byte) (List, error) {
	var is List
	if err := digest.ParseJSON(data, &is); err != nil {
		return List{}, err
	}
	if err := manifest.CheckFormat(is.Format); err != nil {
		return List{}, err
	}
	seen := map[string]bool{}
	for _, i := range is.Issued {
		_, n, err := manifest.ParsePointID(i.Point)
		switch {
		case err != nil:
			return List{}, err
		case !manifest.ValidIdentity(i.Identity) || seen[i.Identity]:
			return List{}, fmt.Errorf("identity %q is malformed, or is there twice", i.Identity)
		case i.State != Issued && i.State != Lost && i.State != Retired:
			return List{}, fmt.Errorf("%s has the unknown state %q", i.Point, i.State)
		case n > is.Highest:
			return List{}, fmt.Errorf("the highest number is %d, and %s was issued", is.Highest, i.Point)
		}
		seen[i.Identity] = true
	}
	return is, nil
}

// Change replaces the list in the directory of a domain by a changed one, on stable
// storage. The caller holds the domain's lock. One that is damaged is an error.
func Change(dir string, change func(*List) error) error {
	is, err := Read(dir)
	if err != nil {
		return err
	}
	if err := change(&is); err != nil {
		return err
	}
	is.Format = manifest.Format
	if is.Issued == nil {
		is.Issued = []Instant{}
	}
	data, err := digest.EncodeJSON(is)
	if err != nil {
		return err
	}
	return fault.Around("instants", func() error {
		return localfile.Replace(filepath.Join(dir, TemporaryName), filepath.Join(dir, FileName), data)
	})
}

// PutDamagedAside renames a list that is damaged, and keeps it for people to look at. The
// new one begins behind the numbers of all existing points.
func PutDamagedAside(dir string) error {
	_, err := Read(dir)
	var damaged *DamagedError
	if !errors.As(err, &damaged) {
		return err
	}
	return os.Rename(filepath.Join(dir, FileName), filepath.Join(dir, DamagedName))
}

// Unissued tells whether the list may be removed with the directory: it has no identity by
// which something in libvirt is known.
func Unissued(dir string) bool {
	data, err := localfile.ReadSmall(filepath.Join(dir, FileName))
	if err != nil {
		return false
	}
	is, err := parse(data)
	return err == nil && len(is.Issued) == 0
}
