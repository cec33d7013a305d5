package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/virtbackup/virtbackup/description"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
)

// isOurs tells whether writing has failed, which no check of the images explains.
func (r *restorer) isOurs(err error) bool {
	var path *fs.PathError
	var stream *streamError
	if errors.As(err, &stream) {
		return true
	}
	if !errors.As(err, &path) {
		return false
	}
	if r.Dir == "" {
		return path.Path == r.Output
	}
	rel, pathErr := filepath.Rel(r.Dir, path.Path)
	return pathErr == nil && filepath.IsLocal(rel)
}

// RealDir finds out which directory is meant, and refuses one in a repository, the restore's
// or another: what is restored there would be damage to it, or a domain. The path that it
// returns has no symbolic links, so that all steps use the same directory.
func RealDir(dir string) (string, error) {
	real, err := localfile.RealPath(dir)
	if err != nil {
		return "", fmt.Errorf("directory to restore to: %w", err)
	}
	if repo := description.Containing(real); repo != "" {
		return "", fail.Errorf(fail.Usage, "name a directory elsewhere with --to", "%s is in the repository %s: nothing is restored into a repository", real, repo)
	}
	return real, nil
}

// takeDir makes the directory, or sees that nothing is in it but what a killed restore has
// left, which it removes; and marks it as this restore's.
func (r *restorer) takeDir() error {
	if err := r.lookAtDir(nil); err != nil {
		return err
	}
	claim, err := takeClaim(filepath.Join(r.Dir, markerName))
	if err != nil {
		return err
	}
	if err := r.lookAtDir(claim); err != nil {
		return errors.Join(err, claim.giveUp())
	}
	r.claim = claim
	if err := fault.Point("restore: clear directory"); err != nil {
		return err
	}
	if len(claim.left) > 0 {
		r.Log.Info(fmt.Sprintf("a killed restore has left files in %s: they are removed", r.Dir))
		if err := r.undo(); err != nil {
			return err
		}
		// It may have been killed before the directory's name was durable.
		if err := errors.Join(claim.clear(), localfile.SyncDir(filepath.Dir(r.Dir))); err != nil {
			return err
		}
	}
	return claim.begin(r.names())
}

// lookAtDir makes the directory if it is absent, and refuses what is not the restore's to
// use. Without a claim, what a marker in it names is for the claim to find out.
func (r *restorer) lookAtDir(claim *claim) error {
	entries, err := os.ReadDir(r.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return r.makeDirs()
	case errors.Is(err, syscall.ENOTDIR):
		return fail.Errorf(fail.Usage, "name a new directory with --to", "%s is not a directory", r.Dir)
	case err != nil:
		return fmt.Errorf("directory to restore to: %w", err)
	}
	marked := slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == markerName })
	for _, e := range entries {
		if claim == nil && !marked || claim != nil && !claim.knows(e.Name()) {
			return fail.Errorf(fail.Usage, "name a new directory with --to; nothing is ever overwritten", "%s is not empty (it has %s)", r.Dir, e.Name())
		}
	}
	if claim != nil && claim.defines != "" && r.Undo == nil {
		return fail.Errorf(fail.Usage, "begin restore --define again; or virsh undefine the domain, and remove the directory; or name a new one with --to",
			"a restore --define to %s was killed, which may have defined a domain on it (UUID %s)", r.Dir, claim.defines)
	}
	if claim != nil && claim.changed() != "" {
		return fail.Errorf(fail.Usage, "name a new directory with --to; nothing is ever overwritten",
			"a restore to %s was killed, and %s has been changed since", r.Dir, claim.changed())
	}
	return nil
}

// names are those of all that the restore makes in the directory.
func (r *restorer) names() (names []string) {
	if r.Output != "" {
		name := filepath.Base(r.Output)
		return []string{name, name + partialSuffix}
	}
	for _, d := range r.point.Disks() {
		image := filepath.Base(r.imagePath(d))
		names = append(names, image, image+partialSuffix)
	}
	names = append(names, r.XMLName(), r.XMLName()+partialSuffix)
	return append(names, r.extraNames()...)
}

// imagePath is that of the image of a disk.
func (r *restorer) imagePath(d manifest.Disk) string {
	if r.Output != "" {
		return r.Output
	}
	path, _ := r.ImageOf(d)
	return path
}

// makeDirs makes the directory and those above it that are missing. The name of each is
// durable only after an fsync of the directory above (fsync(2)).
func (r *restorer) makeDirs() error {
	for _, dir := range localfile.AbsentDirs(r.Dir) {
		err := os.Mkdir(dir, r.DirMode)
		if errors.Is(err, fs.ErrExist) { // somebody else's since a moment ago
			continue
		}
		if err == nil {
			r.madeDirs = append(r.madeDirs, dir)
			err = errors.Join(os.Chmod(dir, r.DirMode), localfile.SyncDir(filepath.Dir(dir))) // whatever the umask
		}
		if err != nil {
			return fmt.Errorf("make the directory to restore to: %w", err)
		}
	}
	return nil
}

// makes takes what is to be removed if the restore fails, once it is made: whoever does not
// heed the marker may have made what has that name.
func (r *restorer) makes(path string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.made = append(r.made, path)
}

// undo calls Undo, if it is set.
func (r *restorer) undo() error {
	if r.Undo == nil {
		return nil
	}
	return r.Undo()
}

// abandon leaves the directory to the next restore, as a kill would.
func (r *restorer) abandon() error {
	if r.claim == nil {
		return nil
	}
	return r.claim.abandon()
}

// removeMade undoes a failed restore. Where something cannot be removed, the marker stays, and
// the next restore to the directory tries again.
func (r *restorer) removeMade() error {
	if r.finishing {
		if err := r.undo(); err != nil {
			return errors.Join(err, r.abandon())
		}
	}
	var errs []error
	for _, path := range slices.Backward(r.made) {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if r.claim != nil {
		if errors.Join(errs...) != nil {
			return errors.Join(append(errs, r.abandon())...)
		}
		errs = append(errs, r.claim.giveUp())
	}
	return errors.Join(append(errs, localfile.RemoveDirs(r.madeDirs))...)
}

// restoreXML puts the domain's XML, as it was, beside the images, unless it is damaged.
func (r *restorer) restoreXML() (path string, err error) {
	if r.xml == nil {
		return "", nil
	}
	path = filepath.Join(r.Dir, r.XMLName())
	f, err := os.OpenFile(path+partialSuffix, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	r.makes(f.Name())
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := fault.Point("restore: write XML"); err != nil {
		return "", err
	}
	if _, err := f.Write(r.xml); err != nil {
		return "", err
	}
	return path, f.Sync()
}
