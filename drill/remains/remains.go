// Package remains knows what a drill makes outside of its process, and takes it away: when the
// drill ends, and after one that was killed.
//
// It is written down before anything is made, in a note beside the records of the domain, and the
// note goes last:
//
//	REPO/DOMAIN/drills/.running-ID
//
// The note names the transient domain by its UUID, and the directory with the overlays and
// sockets. Both are known to be the drill's by its random id and that of the repository: the
// domain has them in its <metadata>, the directory in its name. The process of the drill holds a lock on the note and on a
// file in the directory, so one that still runs is left alone, also by a copy of the repository.
package remains

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/drill/machine"
	"github.com/virtbackup/virtbackup/drill/record"
	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/filelock"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

const (
	notePrefix = ".running-"
	lockName   = "lock"

	// NamePrefix begins the names of domains and directories of drills; the id follows.
	NamePrefix = guest.NamePrefix + "drill-"
)

// Where libvirt keeps things of a domain that it does not remove with it: logs, by the name, and the state of
// TPMs, by the UUID (qemu_conf.c: logDir, swtpmLogDir, swtpmStorageDir).
const (
	logDir    = "/var/log/libvirt/qemu"
	tpmLogDir = "/var/log/swtpm/libvirt/qemu"
	swtpmDir  = "/var/lib/libvirt/swtpm"
)

// dirMode lets QEMU's user, whose directory it is, enter; others cannot.
const dirMode = 0o700

// Host finds domains: *hypervisor.Conn.
type Host interface {
	// DomainByUUID is hypervisor.ErrNoDomain if there is none.
	DomainByUUID(uuid string) (*hypervisor.Domain, error)
}

// Note is what a drill writes down.
type Note struct {
	Format     int    `json:"format"`
	ID         string `json:"id"` // 16 random hex digits
	Repository string `json:"repository"`
	Host       string `json:"host"` // where the domain and the directory are
	UUID       string `json:"uuid"` // of the domain
	Parent     string `json:"parent"`
}

// Name is that of the drill's domain, and of its directory.
func (n Note) Name() string { return NamePrefix + n.ID }

// Dir is the directory of the drill's files.
func (n Note) Dir() string { return filepath.Join(n.Parent, n.Name()) }

// Owner is what the domain has in its metadata.
func (n Note) Owner() machine.Owner { return machine.Owner{Repository: n.Repository, Drill: n.ID} }

// TPMDir is where libvirt keeps the state of the domain's TPM.
func (n Note) TPMDir() string { return filepath.Join(swtpmDir, n.UUID) }

// Running is a drill of this process.
type Running struct {
	Note
	path  string
	note  *os.File // locked
	alive *os.File // locked, in the directory; nil until it is made
}

// New is the note of a drill to come, whose files are going to be in a directory in parent.
func New(repo *repository.Repository, parent string) Note {
	host, _ := os.Hostname()
	return Note{Format: manifest.Format, ID: manifest.NewIdentity(), Repository: repo.ID(), Host: host, UUID: NewUUID(), Parent: parent}
}

// Begin writes the note of a drill of a domain, durably.
func (n Note) Begin(repo *repository.Repository, domain string) (r *Running, err error) {
	r = &Running{Note: n}
	dir, err := r.create(repo.DomainDir(domain))
	if err != nil {
		return nil, fmt.Errorf("note the drill of domain %s: %w", domain, err)
	}
	data, err := digest.EncodeJSON(n)
	if err == nil {
		err = fault.Point("drill: write note")
	}
	if err == nil {
		_, err = r.note.Write(data)
	}
	if err == nil {
		err = errors.Join(localfile.Sync(r.note), localfile.SyncDir(dir))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("note the drill of domain %s: %w", domain, err), os.Remove(r.path), filelock.Close(r.note))
	}
	return r, nil
}

// createTries is how often a note is created: another drill of the domain may take the directory away
// that it is going to be in.
const createTries = 100

// create creates the note, and the directory of the records if it is not there.
func (r *Running) create(domainDir string) (dir string, err error) {
	for range createTries {
		if dir, err = record.MakeDir(domainDir); err == nil {
			r.path = filepath.Join(dir, notePrefix+r.ID)
			r.note, err = filelock.Create(r.path, localfile.FileMode)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return dir, err
}

// MakeDir makes the directory, of a user and group that may be those of this process: -1.
func (r *Running) MakeDir(uid, gid int) error {
	if err := fault.Point("drill: make directory"); err != nil {
		return err
	}
	if err := os.Mkdir(r.Dir(), dirMode); err != nil {
		return err
	}
	if err := fault.Point("drill: lock directory"); err != nil {
		return err
	}
	var err error
	if r.alive, err = filelock.Create(filepath.Join(r.Dir(), lockName), localfile.FileMode); err != nil {
		return err
	}
	return os.Lchown(r.Dir(), uid, gid)
}

// EndDomain ends the domain, if there is one.
func (r *Running) EndDomain(host Host) error { return removeDomain(r.Note, host) }

// End takes away all that the drill has made. After an error the note stays, and Clean can be tried.
func (r *Running) End(host Host) error {
	err := remove(r.Note, r.path, host)
	if r.alive != nil {
		err = errors.Join(err, filelock.Close(r.alive))
	}
	return errors.Join(err, filelock.Close(r.note))
}

// Found is what drills that were killed have left.
type Found struct {
	Removed []string // in a look: what would be
	Left    []string // what is left, and why
}

// Clean takes away what drills of a domain have left that do not run any more. If look is set, it only looks.
func Clean(repo *repository.Repository, domain string, host Host, look bool) (found Found, err error) {
	dir, err := record.Dir(repo.DomainDir(domain))
	var entries []os.DirEntry
	if err == nil {
		entries, err = os.ReadDir(dir)
	}
	if errors.Is(err, fs.ErrNotExist) { // the last drill takes it away, at any time
		return found, nil
	}
	if err != nil {
		return found, fmt.Errorf("look for what drills of domain %s have left: %w", domain, err)
	}
	for _, e := range entries {
		id, ok := strings.CutPrefix(e.Name(), notePrefix)
		if !ok || !manifest.ValidIdentity(id) {
			continue
		}
		if err := found.clean(filepath.Join(dir, e.Name()), id, repo.ID(), host, look); err != nil {
			return found, fmt.Errorf("clean up after drill %s of domain %s: %w", id, domain, err)
		}
	}
	return found, nil
}

// Any tells whether there is a note of a drill of a domain, which may run.
func Any(repo *repository.Repository, domain string) bool {
	notes, _ := filepath.Glob(filepath.Join(globEscape.Replace(repo.DomainDir(domain)), record.DirName, notePrefix+"*"))
	return len(notes) > 0
}

// globEscape quotes a path for filepath.Glob.
var globEscape = strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`)

// clean takes away what one drill has left.
func (f *Found) clean(path, id, repository string, host Host, look bool) error {
	file, err := lockIfDead(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // its drill has just ended
	}
	if err != nil || file == nil {
		return err
	}
	defer file.Close()
	data, err := localfile.ReadSmall(path)
	if err != nil {
		return err
	}
	var n Note
	switch err := digest.ParseJSON(data, &n); {
	case len(data) == 0, err == nil && n.Repository != repository:
		// It was killed before anything was made; or it is a copy's, and nothing that it names is ours.
		if look {
			return nil
		}
		return os.Remove(path)
	case err != nil, n.ID != id, !manifest.ValidUUID(n.UUID), !filepath.IsAbs(n.Parent):
		f.Left = append(f.Left, fmt.Sprintf("drill %s: its note %s is damaged; domain %s and the directory of that name are its remains, if they are there", id, path, NamePrefix+id))
		return nil
	}
	if here, _ := os.Hostname(); n.Host != here {
		f.Left = append(f.Left, fmt.Sprintf("drill %s: it was on host %s; recover cleans up there", id, n.Host))
		return nil
	}
	alive, err := lockIfDead(filepath.Join(n.Dir(), lockName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) || err == nil && alive == nil {
		return err
	}
	if alive != nil {
		defer alive.Close()
	}
	what := fmt.Sprintf("drill %s: domain %s, if it runs, and %s", id, n.Name(), n.Dir())
	if !look {
		if err := remove(n, path, host); err != nil {
			var foreign *foreignError
			if !errors.As(err, &foreign) {
				return err
			}
			f.Left = append(f.Left, what+": "+foreign.Error())
			return nil
		}
	}
	f.Removed = append(f.Removed, what)
	return nil
}

// lockIfDead locks a file of a drill, unless its process holds it, or has removed it: nil.
func lockIfDead(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	err = filelock.Try(f, filelock.Exclusive)
	if err == nil && filelock.IsAt(f, path) {
		return f, nil
	}
	f.Close()
	if errors.Is(err, filelock.ErrHeld) {
		err = nil
	}
	return nil, err
}

// foreignError says that a domain has the UUID of a drill's, and is another one.
type foreignError struct{ name string }

func (e *foreignError) Error() string {
	return fmt.Sprintf("domain %s has its UUID, and is not the drill's", e.name)
}

// remove takes away what is there of a drill, its note last.
func remove(n Note, path string, host Host) error {
	if err := removeDomain(n, host); err != nil {
		return err
	}
	if err := fault.Point("drill: remove files"); err != nil {
		return err
	}
	logs, _ := filepath.Glob(filepath.Join(logDir, n.Name()+".log*"))
	for _, file := range append(logs, filepath.Join(tpmLogDir, n.Name()+"-swtpm.log"), n.TPMDir(), n.Dir()) {
		if err := os.RemoveAll(file); err != nil && !(errors.Is(err, fs.ErrPermission) && file != n.Dir()) {
			return err
		}
	}
	if err := fault.Point("drill: remove note"); err != nil {
		return err
	}
	for _, file := range []string{filepath.Join(filepath.Dir(path), record.Temporary(n.ID)), path} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return localfile.RemoveDirs([]string{filepath.Dir(path)}) // if no drill has been recorded
}

// removeDomain ends the domain, which is gone then: it is transient.
func removeDomain(n Note, host Host) error {
	if err := fault.Point("drill: end domain"); err != nil {
		return err
	}
	domain, err := host.DomainByUUID(n.UUID)
	if errors.Is(err, hypervisor.ErrNoDomain) {
		return nil
	}
	if err != nil {
		return err
	}
	doc, err := domain.XML()
	if errors.Is(err, hypervisor.ErrNoDomain) {
		return nil
	}
	if err != nil {
		return err
	}
	if owner, ok := machine.OwnerOf(doc); !ok || owner != n.Owner() {
		return &foreignError{cmp.Or(domain.Name(), n.UUID)}
	}
	err = domain.PowerOff()
	if _, lookErr := host.DomainByUUID(n.UUID); errors.Is(lookErr, hypervisor.ErrNoDomain) {
		return nil // it has ended by itself
	}
	return err
}
