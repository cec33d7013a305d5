// Package record keeps the results of drills, a file each, beside the points of a domain:
//
//	REPO/DOMAIN/drills/ID.json
//	REPO/DOMAIN/drills/ID.png    what the guest's screen showed
//
// They are information for people, list and prune: never a part of a point.
package record

import (
	"cmp"
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
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
)

const (
	// DirName is the directory, beside a domain's points, that holds the records.
	DirName = "drills"

	suffix           = ".json"
	screenshotSuffix = ".png"
	temporary        = ".new-" // of the file that is going to be a record; its id follows
)

// kept is how many records stay besides the newest of each point, and how many screenshots at
// all: a year of monthly drills, and some that were repeated.
const kept = 20

// Record is the result of one drill.
type Record struct {
	Format int    `json:"format"`
	ID     string `json:"id"` // 16 random hex digits

	Domain    string    `json:"domain"`
	Point     string    `json:"point"`
	Identity  string    `json:"identity,omitempty"` // of the point
	PointTime time.Time `json:"point_time"`
	Manifest  string    `json:"manifest"` // digest of the point's manifest.json

	Time    time.Time `json:"time"` // when the drill began, UTC
	Host    string    `json:"host"`
	Booted  bool      `json:"booted"`
	Reason  string    `json:"reason,omitempty"` // why not
	By      string    `json:"by"`               // what showed that the guest is up: one of the constants
	Seconds float64   `json:"boot_seconds"`     // from the start until By; 0 where the guest did not come up
	Memory  int64     `json:"memory_bytes"`     // of the domain that was booted
	VCPUs   int       `json:"vcpus"`
	Notes   []string  `json:"notes,omitempty"` // what was not as in the point's domain, and should be known

	Script     *Script  `json:"script,omitempty"`
	Console    []string `json:"console,omitempty"`    // the last lines, as they came: to be escaped before they are printed
	Screenshot string   `json:"screenshot,omitempty"` // the name of the file
}

// What shows that a guest is up.
const (
	ByAgent   = "agent"
	ByConsole = "console"
	ByScript  = "script"
)

// Script is what a script said of the guest.
type Script struct {
	Path     string  `json:"path"`
	ExitCode int     `json:"exit_code"` // -1 where it was ended
	Seconds  float64 `json:"seconds"`
	Output   string  `json:"output"` // the end of both outputs, to be escaped like the console
}

// Dir is the directory of the records, in that of a domain, if there is one: fs.ErrNotExist.
func Dir(domainDir string) (string, error) {
	dir := filepath.Join(domainDir, DirName)
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

// MakeDir makes the directory if it is not there, in that of a domain, which is.
func MakeDir(domainDir string) (string, error) {
	err := os.Mkdir(filepath.Join(domainDir, DirName), localfile.DirMode)
	if err == nil {
		err = localfile.SyncDir(domainDir)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return Dir(domainDir)
}

// clockSlack is how far ahead of this host's clock a record may be, as for verifications. What is
// beyond comes from a clock that was wrong: it would hide all later drills of the point.
const clockSlack = time.Minute

// List returns the records of a domain, oldest first. What cannot be read, is that of
// another domain, or of the future, is left out: a record proves that a point booted, the lack of one
// nothing.
func List(domainDir string) []Record {
	dir, err := Dir(domainDir)
	if err != nil {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var all []Record
	limit := time.Now().Add(clockSlack)
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok || !manifest.ValidIdentity(id) {
			continue
		}
		if r, err := read(dir, id); err == nil && r.Domain == filepath.Base(domainDir) && !r.Time.After(limit) {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b Record) int { return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.ID, b.ID)) })
	return all
}

func read(dir, id string) (r Record, err error) {
	data, err := localfile.ReadSmall(filepath.Join(dir, id+suffix))
	if err == nil {
		err = digest.ParseJSON(data, &r)
	}
	if err == nil {
		err = manifest.CheckFormat(r.Format)
	}
	if err == nil && r.ID != id {
		err = fmt.Errorf("%s is the record of drill %q", id+suffix, r.ID)
	}
	return r, err
}

// Is tells whether a record is that of a point, whose manifest.json has that digest now. A point that
// was built anew shows the same disks as before, bit for bit, and keeps its identity: what
// booted once does so still. Without an identity only the same manifest is the same point.
func (r Record) Is(m manifest.Manifest, digest string) bool {
	if r.Domain != m.Domain || r.Point != m.ID || r.Identity != m.Identity || !r.PointTime.Equal(m.Time) {
		return false
	}
	rebuilt := m.Synthetic || len(m.Merged) > 0
	return r.Manifest == digest || r.Identity != "" && rebuilt
}

// Newest are the newest records of points, by their ids. records are oldest first; digest is that of a
// point's manifest.json, if it is known.
func Newest(records []Record, points []manifest.Manifest, digest func(id string) (string, bool)) map[string]Record {
	newest := map[string]Record{}
	for _, m := range points {
		sum, known := digest(m.ID)
		if !known {
			continue
		}
		for _, r := range slices.Backward(records) {
			if r.Is(m, sum) {
				newest[m.ID] = r
				break
			}
		}
	}
	return newest
}

// Temporary is the name of the file that is going to be the record of a drill, or its screenshot. Who is killed leaves it.
func Temporary(id string) string { return temporary + id }

// ScreenshotName is the name of the file with the screenshot of a drill.
func ScreenshotName(id string) string { return id + screenshotSuffix }

// Add keeps a record, durably, with a screenshot in PNG if there is one, and removes those
// that are not kept any more.
func Add(domainDir string, r Record, screenshot []byte) error {
	dir, err := MakeDir(domainDir)
	if err == nil {
		err = add(dir, r, screenshot)
	}
	if err != nil {
		return fmt.Errorf("record the drill of %s@%s: %w", r.Domain, r.Point, err)
	}
	return tidy(domainDir, dir)
}

func add(dir string, r Record, screenshot []byte) error {
	if len(screenshot) > 0 {
		if err := localfile.Replace(filepath.Join(dir, Temporary(r.ID)), filepath.Join(dir, ScreenshotName(r.ID)), screenshot); err != nil {
			return err
		}
	}
	data, err := digest.EncodeJSON(r)
	if err != nil {
		return err
	}
	return localfile.Replace(filepath.Join(dir, Temporary(r.ID)), filepath.Join(dir, r.ID+suffix), data)
}

// tidy removes all but the newest record of each point that is there, and the newest of all.
func tidy(domainDir, dir string) error {
	all := List(domainDir)
	seen := map[string]bool{}
	var errs []error
	for i, r := range slices.Backward(all) {
		recent := len(all)-i <= kept
		point := r.Point + " " + r.Identity
		first := !seen[point]
		seen[point] = true
		if recent {
			continue
		}
		remove := []string{r.ID + screenshotSuffix}
		if !first || !isDir(filepath.Join(domainDir, r.Point)) {
			remove = append(remove, r.ID+suffix)
		}
		for _, name := range remove {
			if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// RemoveAll removes all records of a domain, and their directory, unless a drill runs or has left
// something: its note is there.
func RemoveAll(domainDir string) error {
	dir, err := Dir(domainDir)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, _, _ := strings.Cut(strings.TrimPrefix(e.Name(), temporary), ".")
		if !manifest.ValidIdentity(name) { // a note, or somebody else's
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return localfile.RemoveDirs([]string{dir})
}

func isDir(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}
