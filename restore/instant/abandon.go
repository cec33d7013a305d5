package instant

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

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
	// Undefined: the domain is powered off and undefined. Otherwise there is none, or it is on other disks.
	Undefined bool `json:"undefined"`
}

// errRefused says that the person who was asked has said no.
var errRefused = fail.WithHint(errors.New("nothing was changed"), "--resume goes on with the domain")

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
	if err := r.refuseAlone(); err != nil {
		return Abandoned{}, err
	}
	a = Abandoned{Domain: r.Domain, Point: r.pin.Point, Name: r.pin.Runs.Name, UUID: r.pin.Runs.UUID, Dir: r.pin.Runs.Dir}
	domain, err := r.findDomain()
	if err != nil {
		return Abandoned{}, err
	}
	a.Undefined, a.Files = domain != nil, r.whatGoes(domain)
	yes, err := confirm(a)
	if err == nil && !yes {
		err = errRefused
	}
	if err != nil {
		return Abandoned{}, err
	}
	return a, r.takeAway()
}

// refuseAlone refuses to take away a domain that needs the point no more.
func (r *run) refuseAlone() error {
	whole, err := r.isWhole()
	if err != nil || !whole {
		return err
	}
	image, err := r.inNeed()
	if err != nil || image != "" {
		return err
	}
	return fail.WithHint(fmt.Errorf("domain %s stands alone: it does not run from %s any more, and is not taken away", r.pin.Runs.Name, r.pin.Point),
		"virtbackup recover %s removes the pin of the point", manifest.ShellWord(r.Domain))
}

// whatGoes are the files that taking the domain away removes; nil: there is none.
func (r *run) whatGoes(domain *hypervisor.Domain) (paths []string) {
	for _, path := range r.files() {
		if _, err := os.Lstat(path); err == nil && (domain != nil || r.ours(path)) {
			paths = append(paths, path)
		}
	}
	return paths
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
	if err := errors.Join(r.usedElsewhere(), r.movedAway()); err != nil {
		return err
	}
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
	now, err := parsed(domain.XML)
	if err != nil {
		return nil, err
	}
	for _, d := range append(definition.Disks, now.Disks...) {
		for _, path := range sources(d) {
			if filepath.Dir(path) == r.pin.Runs.Dir {
				return domain, nil
			}
		}
	}
	return nil, nil
}

// movedAway is an error if the domain is there, and its images, which need the server, are elsewhere.
func (r *run) movedAway() error {
	domain, err := r.host.DomainByUUID(r.pin.Runs.UUID)
	if errors.Is(err, hypervisor.ErrNoDomain) {
		return nil
	}
	if err != nil {
		return err
	}
	if in, err := r.findDomain(); err != nil || in != nil {
		return err
	}
	r.domain = domain
	image, err := r.inNeedBy(domain)
	if err == nil && image != "" {
		err = fail.WithHint(fmt.Errorf("domain %s still has its data in %s, and its image %s is not in %s", domain.Name(), r.pin.Point, image, r.pin.Runs.Dir),
			"--resume goes on; or undefine the domain and remove its images, then --abandon")
	}
	return err
}

// ours tells whether a file in the directory was made by the restore, where no domain says so: an
// overlay on the server of this pin, or a file of the point.
func (r *run) ours(path string) bool {
	if isImage(path) {
		backing, err := backingOf(path)
		return err == nil && r.onServer(backing)
	}
	// The same file of the point may have been restored there by somebody else since.
	if !slices.ContainsFunc(r.images(), r.ours) {
		return false
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

func imageLast(path string) int {
	if isImage(path) {
		return 1
	}
	return 0
}

// removeFiles removes what was made in the directory, as far as may says, and the directories that
// were made if nothing else is in them.
func (r *run) removeFiles(may func(path string) bool) error {
	if err := fault.Point("instant: remove files"); err != nil {
		return err
	}
	var errs []error
	files := r.files() // the images last: by them the other files are known
	slices.SortStableFunc(files, func(a, b string) int { return cmp.Compare(imageLast(a), imageLast(b)) })
	for _, path := range files {
		if !may(path) {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, localfile.RemoveDirs(r.pin.Runs.Made))...)
}
