package keep

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/internal/filelock"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
)

// PinsName is the directory, beside a domain's points, that holds a file for each pin:
// pins/ID.json.
const PinsName = "pins"

const pinSuffix = ".json"

// pinTemporary becomes a pin under the domain's lock, so one name is enough.
const pinTemporary = ".pin"

// pinAttempts bounds the retries after others removed the directory, with the last pin,
// between our steps.
const pinAttempts = 10

// Pin says that something that may outlive this process reads a point: a guest that runs
// from its images. Neither the point nor any that it needs is replaced or deleted until the
// pin is gone.
type Pin struct {
	Format   int       `json:"format"`
	ID       string    `json:"id"` // random, and the name of the file
	Point    string    `json:"point"`
	Identity string    `json:"identity,omitempty"`
	Reason   string    `json:"reason"` // for people
	Host     string    `json:"host"`   // where it was made
	Time     time.Time `json:"time"`   // when, UTC
	// Runs is the domain that runs from the point, nil where it is something else that reads it.
	Runs *Runs `json:"runs,omitempty"`
}

// Runs is a domain whose images show what a point has through a server.
type Runs struct {
	Name string `json:"name"`
	UUID string `json:"uuid"`
	Dir  string `json:"dir"` // absolute, of its images
	// Files are the names in Dir of what is made there, and Made the directories that are made,
	// the outermost first.
	Files  []string `json:"files"`
	Made   []string `json:"made"`
	Socket string   `json:"socket"` // of the server
	// Place is where the repository is (repository.Repository.Place): a copy of it is elsewhere.
	Place string `json:"place"`
	// Policies are what an I/O error did before, by the targets of the disks and the attributes of
	// their drivers: the domain is to get them back.
	Policies map[string]map[string]string `json:"policies"`
	// Device is that of the file system which Dir is on, or will be on (st_dev). It may change with a reboot.
	Device uint64 `json:"device"`
	// Sizes are those of the disks in the point, in bytes, by their targets.
	Sizes map[string]int64 `json:"sizes"`
}

// Pins lists the pins in the directory of a domain. damaged are the names of files that cannot
// be read as one: what they hold is unknown.
func Pins(domainDir string) (pins []Pin, damaged []string, err error) {
	dir, err := pinsDir(domainDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	var entries []fs.DirEntry
	if err == nil {
		entries, err = os.ReadDir(dir)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("list pins of domain %s: %w", filepath.Base(domainDir), err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") { // not complete: nobody relies on it yet
			continue
		}
		pin, err := readPin(dir, e.Name())
		switch {
		case errors.Is(err, fs.ErrNotExist): // ended a moment ago
		case err != nil:
			damaged = append(damaged, e.Name())
		default:
			pins = append(pins, pin)
		}
	}
	return pins, damaged, nil
}

// pinsDir returns the directory of a domain's pins. The error is fs.ErrNotExist where there
// is none.
func pinsDir(domainDir string) (string, error) {
	dir := filepath.Join(domainDir, PinsName)
	for _, dir := range []string{domainDir, dir} {
		info, err := os.Lstat(dir)
		if err == nil && !info.IsDir() { // a symbolic link may lead outside
			err = &fs.PathError{Op: "open", Path: dir, Err: unix.ENOTDIR}
		}
		if err != nil {
			return "", err
		}
	}
	return dir, nil
}

func readPin(dir, name string) (Pin, error) {
	data, err := localfile.ReadSmall(filepath.Join(dir, name))
	if err != nil {
		return Pin{}, err
	}
	return parsePin(data, name)
}

// parsePin reads the content of the file of a pin strictly.
func parsePin(data []byte, name string) (pin Pin, err error) {
	if err := digest.ParseJSON(data, &pin); err != nil {
		return Pin{}, err
	}
	if err := manifest.CheckFormat(pin.Format); err != nil {
		return Pin{}, err
	}
	if _, _, err := manifest.ParsePointID(pin.Point); err != nil {
		return Pin{}, err
	}
	if pin.ID+pinSuffix != name {
		return Pin{}, fmt.Errorf("%s is that of pin %q", name, pin.ID)
	}
	return pin, nil
}

// AddPin pins a point, durably: its directory is in that of the domain, whose lock the caller
// holds. runs may be nil.
func AddPin(domainDir string, m manifest.Manifest, reason string, runs *Runs) (Pin, error) {
	host, _ := os.Hostname()
	pin := Pin{Format: manifest.Format, ID: manifest.NewIdentity(), Point: m.ID, Identity: m.Identity,
		Reason: reason, Host: host, Time: time.Now().UTC(), Runs: runs}
	data, err := digest.EncodeJSON(pin)
	if err != nil {
		return Pin{}, err
	}
	for range pinAttempts {
		if err = writePin(domainDir, pin.ID, data); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err != nil {
		return Pin{}, fmt.Errorf("pin point %s of domain %s: %w", m.ID, filepath.Base(domainDir), err)
	}
	return pin, nil
}

func writePin(domainDir, id string, data []byte) error {
	dir := filepath.Join(domainDir, PinsName)
	if err := os.Mkdir(dir, localfile.DirMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if _, err := pinsDir(domainDir); err != nil {
		return err
	}
	if err := localfile.Replace(filepath.Join(dir, pinTemporary), filepath.Join(dir, id+pinSuffix), data); err != nil {
		return err
	}
	return localfile.SyncDir(domainDir)
}

// RemovePin removes a pin, and the directory of pins with the last one; no error if it is
// gone. It needs no lock.
func RemovePin(domainDir, pin string) error {
	if err := manifest.ValidName(pin); err != nil {
		return err
	}
	dir, err := pinsDir(domainDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = os.Remove(filepath.Join(dir, pin+pinSuffix))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove pin %s of domain %s: %w", pin, filepath.Base(domainDir), err)
	}
	return localfile.RemoveDirs([]string{dir})
}

// HoldPin locks the file of a pin for the process that is at work with it. The error is
// filelock.ErrHeld where another one is.
func HoldPin(domainDir, pin string) (*os.File, error) {
	if err := manifest.ValidName(pin); err != nil {
		return nil, err
	}
	dir, err := pinsDir(domainDir)
	if err != nil {
		return nil, err
	}
	f, err := localfile.OpenRegular(filepath.Join(dir, pin+pinSuffix))
	if err != nil {
		return nil, err
	}
	if err := filelock.Try(f, filelock.Exclusive); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// RemoveNoPins removes the directory of the pins, unless there are any. Errors are ignored.
func RemoveNoPins(domainDir string) {
	if pins, damaged, err := Pins(domainDir); err != nil || len(pins)+len(damaged) > 0 {
		return
	}
	dir := filepath.Join(domainDir, PinsName)
	_ = os.Remove(filepath.Join(dir, pinTemporary)) // of a run that died
	_ = os.Remove(dir)
}
