// Package repository keeps restore points in a directory tree (docs/format.md
// describes it for people): the tree itself, the lock of a domain, points that are being
// made and sealed, exchanged or removed.
//
//	REPO/repository.json
//	REPO/DOMAIN/lock
//	REPO/DOMAIN/instants.json
//	REPO/DOMAIN/check1/manifest.json ...   a sealed point
//	REPO/DOMAIN/.partial-check2/ ...       a run under way, or what a crash left
//
// Names that come from outside (a domain's, a disk's, a manifest's) are checked
// with manifest.ValidName before they become part of a path.
//
// What a manifest says is package manifest's, the images diskimage's. The other files of a
// directory have packages that read and replace them: description, instants, keep, and
// lineage, which knows what points need of one another. Who may change them is said here, by
// Lock. The package knows nothing of libvirt.
package repository

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/description"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/fileid"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/manifest"
)

// Errors to compare with by errors.Is.
var (
	ErrNotRepository = fail.Sentinel(fail.Usage,
		"is its file system mounted, and is --repo right? virtbackup init DIR makes a repository in a directory that is new or empty",
		"not a virtbackup repository")
	ErrAbsent = fail.Sentinel(fail.Usage, // is an ErrNotRepository, too
		"is its file system mounted, and is --repo right? virtbackup init DIR makes a repository",
		"%w: the directory does not exist", ErrNotRepository)
	ErrNoDisk = fail.Sentinel(fail.NotFound, "", "no such disk in the restore point")
)

// Repository is an opened repository. It holds no descriptors and is safe for
// concurrent use.
type Repository struct {
	dir       string
	id        string
	formerIDs []string   // before NewID
	place     *fileid.ID // of the directory, as it is; nil: unknown
	// made are the directories that Create made for it, outermost first; nil
	// where the repository was there before.
	made  []string
	isNew bool
}

// Create opens the repository in dir, and makes it first where dir is absent or
// empty. A directory with other content is refused with ErrNotRepository, so
// that a mistyped path never mixes points into somebody's files. One that could
// not be made leaves nothing behind.
func Create(dir string) (*Repository, error) {
	r, err := Open(dir)
	if !errors.Is(err, ErrNotRepository) {
		return r, err
	}
	made := localfile.AbsentDirs(dir)
	isNew := false
	err = panics.Catch(func() (err error) {
		if isNew, err = create(dir); err != nil {
			return err
		}
		if err := fault.Point("create repository"); err != nil {
			return err
		}
		r, err = Open(dir)
		return err
	})
	if err != nil {
		if isNew {
			_ = os.Remove(filepath.Join(dir, manifest.DescriptionName))
		}
		return nil, errors.Join(fmt.Errorf("create repository: %w", err), localfile.RemoveDirs(made))
	}
	if isNew {
		r.isNew, r.made = true, made
	}
	return r, nil
}

func create(dir string) (isNew bool, err error) {
	if err := localfile.MakeDir(dir); err != nil {
		return false, err
	}
	if err := checkEmpty(dir); err != nil {
		return false, err
	}
	return description.Create(dir)
}

// RemoveIfUnused undoes a Create that made the repository, if nobody has put
// anything into it. For one that was there before, it does nothing.
func (r *Repository) RemoveIfUnused() error {
	if !r.isNew {
		return nil
	}
	// First put repository.json aside, then look. Whoever opened the repository
	// before makes a directory first and looks for repository.json then (see
	// Lock): one of the two always sees the other.
	path, aside := filepath.Join(r.dir, manifest.DescriptionName), filepath.Join(r.dir, description.TemporaryPrefix+r.id)
	if err := os.Rename(path, aside); err != nil {
		return fmt.Errorf("remove the unused repository: %w", err)
	}
	if err := checkEmpty(r.dir); err != nil {
		return localfile.RenameExclusive(aside, path)
	}
	r.isNew = false
	return errors.Join(os.Remove(aside), localfile.RemoveDirs(r.made))
}

// check returns an error if the repository was removed since it was opened.
func (r *Repository) check() error {
	now, err := Open(r.dir)
	if err == nil && now.id != r.id {
		err = fmt.Errorf("repository %s was made anew meanwhile", r.dir)
	}
	return err
}

// Open opens the repository in dir. The error is ErrNotRepository where dir or
// its repository.json is absent (and ErrAbsent where it is dir),
// ErrNewerFormat where this program is too old.
func Open(dir string) (*Repository, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open repository: %w", err)
	}
	d, err := description.Read(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open repository %s: %w", dir, notRepository(dir))
	}
	if err != nil {
		return nil, fmt.Errorf("open repository %s: %w", dir, err)
	}
	place, err := description.FindPlace(dir)
	if err != nil {
		return nil, fmt.Errorf("open repository %s: %w", dir, err)
	}
	return &Repository{dir: dir, id: d.ID, formerIDs: d.FormerIDs, place: place}, nil
}

func notRepository(dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return ErrAbsent
	}
	return fmt.Errorf("%w: it holds no %s", ErrNotRepository, manifest.DescriptionName)
}

// IsNew says whether Create made the repository.
func (r *Repository) IsNew() bool { return r.isNew }

// OnRoot says whether the repository lies on the file system of /, as one does
// whose own file system is not mounted. It is false if that is unknown.
func (r *Repository) OnRoot() bool {
	var here, root unix.Stat_t
	return unix.Stat(r.dir, &here) == nil && unix.Stat("/", &root) == nil && here.Dev == root.Dev
}

// ID is the UUID of the repository. It stays when the directory moves.
func (r *Repository) ID() string { return r.id }

// Dir is the absolute path of the repository.
func (r *Repository) Dir() string { return r.dir }

// PointDir is the directory of a sealed point. Both names must be valid.
func (r *Repository) PointDir(domain, id string) string {
	return filepath.Join(r.dir, domain, id)
}

// DomainDir is the directory of a domain's points. The name must be valid.
func (r *Repository) DomainDir(domain string) string { return r.domainDir(domain) }

func (r *Repository) domainDir(domain string) string {
	return filepath.Join(r.dir, domain)
}

// Domains lists the domains that have a directory, sorted by name. They may
// hold no sealed point yet.
func (r *Repository) Domains() ([]string, error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, fmt.Errorf("list domains: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && manifest.ValidName(e.Name()) == nil {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// checkEmpty accepts what is there before a repository is: nothing, lost+found,
// and temporary files of a Create that died.
func checkEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		// Another Create may have won since Open looked.
		if name == manifest.LostFound || name == manifest.DescriptionName || strings.HasPrefix(name, description.TemporaryPrefix) {
			continue
		}
		return fmt.Errorf("%s: %w, and not empty (it holds %q)", dir, ErrNotRepository, name)
	}
	return nil
}
