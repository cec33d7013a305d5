package instant

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/restore"
	"github.com/virtbackup/virtbackup/restore/define"
)

// Abandoned is a domain that is taken away, with all that its guest has written.
type Abandoned struct {
	Domain string   `json:"domain"` // of the point
	Point  string   `json:"point"`
	Name   string   `json:"name"`
	UUID   string   `json:"uuid"`
	Dir    string   `json:"dir"`
	Files  []string `json:"files"` // that are removed
}

// errRefused says that the person who was asked has said no.
var errRefused = fail.WithHint(errors.New("nothing was changed"), "the domain goes on running from the point")

// Abandon takes away a domain that Run has made run from a point, if confirm says yes. Of the Request
// it takes the domain and the directory.
//
// Errors: as those of Resume.
func Abandon(repo *repository.Repository, host define.Host, request Request, confirm func(Abandoned) (bool, error)) (a Abandoned, err error) {
	r := newRun(repo, host, request)
	if err := r.findIn(request.Dir); err != nil {
		return Abandoned{}, err
	}
	defer func() { err = errors.Join(err, r.letGo()) }()
	a = Abandoned{Domain: r.Domain, Point: r.pin.Point, Name: r.pin.Runs.Name, UUID: r.pin.Runs.UUID, Dir: r.pin.Runs.Dir}
	if a.Files, err = r.whatGoes(); err != nil {
		return Abandoned{}, err
	}
	yes, err := confirm(a)
	if err == nil && !yes {
		err = errRefused
	}
	if err != nil {
		return Abandoned{}, err
	}
	return a, r.takeAway()
}

// whatGoes are the files that taking the domain away removes.
func (r *run) whatGoes() (paths []string, err error) {
	domain, err := r.findDomain()
	if err != nil {
		return nil, err
	}
	for _, path := range r.files() {
		if _, err := os.Lstat(path); err == nil && (domain != nil || r.ours(path)) {
			paths = append(paths, path)
		}
	}
	return paths, nil
}

// files are the paths of what may have been made in the directory.
func (r *run) files() (paths []string) {
	for _, name := range r.pin.Runs.Files {
		if filepath.IsLocal(name) && name == filepath.Base(name) && name != "." {
			paths = append(paths, filepath.Join(r.pin.Runs.Dir, name))
		}
	}
	return paths
}

// takeAway removes the domain, its files, the server, and the pin last.
func (r *run) takeAway() error {
	if err := r.removeDomain(); err != nil {
		return err
	}
	return r.forget()
}

// removeDomain powers the domain off, undefines it, and removes its files. Where there is none the
// files that are provably ours go.
func (r *run) removeDomain() error {
	if err := r.removeLeft(); err != nil {
		return err
	}
	domain, err := r.findDomain()
	if err != nil {
		return err
	}
	if domain == nil {
		return r.removeFiles(r.ours)
	}
	if err := fault.Point("instant: power off"); err != nil {
		return err
	}
	if err := domain.PowerOff(); err != nil {
		return err
	}
	if err := fault.Point("instant: undefine"); err != nil {
		return err
	}
	if err := r.undefine(domain); err != nil {
		return err
	}
	return r.removeFiles(func(string) bool { return true })
}

// removeLeft removes what a restore has left that was killed before the domain was complete.
func (r *run) removeLeft() error {
	return restore.RemoveLeft(r.pin.Runs.Dir, func() error {
		domain, err := r.findDomain()
		if err != nil || domain == nil {
			return err
		}
		if active, err := domain.Active(); err != nil || active {
			return errors.Join(err, fmt.Errorf("domain %s runs on what a killed restore has left in %s", domain.Name(), r.pin.Runs.Dir))
		}
		return r.undefine(domain)
	})
}

func (r *run) undefine(domain *hypervisor.Domain) error {
	return define.Remove(domain, r.pin.Runs.Name != r.Domain)
}

// findDomain returns the domain, nil if there is none. One of the UUID that has nothing in the
// directory is another one: somebody has defined it anew.
func (r *run) findDomain() (*hypervisor.Domain, error) {
	domain, err := r.host.DomainByUUID(r.pin.Runs.UUID)
	if errors.Is(err, hypervisor.ErrNoDomain) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	definition, err := parsed(domain.InactiveXML)
	if err != nil {
		return nil, err
	}
	for _, d := range definition.Disks {
		if filepath.Dir(d.Source) == r.pin.Runs.Dir {
			return domain, nil
		}
	}
	return nil, nil
}

// ours tells whether a file in the directory was made by the restore, where no domain says so: an
// overlay on the server of this pin, or a file of the point.
func (r *run) ours(path string) bool {
	if strings.HasSuffix(path, ".qcow2") {
		backing, err := backingOf(path)
		return err == nil && strings.HasSuffix(backing, "?socket="+r.pin.Runs.Socket)
	}
	m, err := r.repo.Point(r.Domain, r.pin.Point)
	if err != nil {
		return false
	}
	data, err := localfile.ReadSmall(path)
	if err != nil {
		return false
	}
	name := filepath.Base(path)
	if filepath.Ext(name) == ".xml" {
		name = manifest.DomainXML
	}
	return m.Files[name] == digest.Of(data)
}

// removeFiles removes what was made in the directory, as far as may says, and the directories that
// were made if nothing else is in them.
func (r *run) removeFiles(may func(path string) bool) error {
	if err := fault.Point("instant: remove files"); err != nil {
		return err
	}
	var errs []error
	for _, path := range r.files() {
		if !may(path) {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, localfile.RemoveDirs(r.pin.Runs.Made))...)
}
