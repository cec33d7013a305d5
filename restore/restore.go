// Package restore makes standalone images of the disks of a restore point.
package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/virtbackup/virtbackup/description"
	"github.com/virtbackup/virtbackup/flatten"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/qcow2/chain"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/restore/reading"
)

// partialSuffix ends the name of an image that is not complete.
const partialSuffix = ".partial"

// restorer is one restore.
type restorer struct {
	Request
	repo  *repository.Repository
	point *reading.Point
	xml   []byte

	mu   sync.Mutex // of what follows
	made []string   // what to remove if it fails, in the order of making; nothing else
}

// Run restores the disks of a point to standalone images, and puts the domain's
// XML beside them; damaged XML is a warning if disks are named. Nothing is
// overwritten: the directory must be new or empty. An image gets its name only once
// it is complete and on stable storage, and all files that it was made from have been
// read and compared with their hashes. A failed restore removes what it has made.
//
// Errors: fail.Usage, fail.NotFound, *damage.Error, and whatever
// the file system reports.
func Run(ctx context.Context, repo *repository.Repository, request Request) (result Result, err error) {
	r := &restorer{Request: request.withDefaults(), repo: repo}
	if err := r.validate(); err != nil {
		return Result{}, err
	}
	if err := r.checkDir(); err != nil {
		return Result{}, err
	}
	err = repo.Read(ctx, r.Domain, func() (err error) { // no merge replaces the images meanwhile
		again := &restorer{Request: r.Request, repo: repo}
		result, err = again.run(ctx)
		return err
	})
	return result, err
}

func (r *restorer) run(ctx context.Context) (_ Result, err error) {
	start := time.Now()
	r.point, err = reading.Open(r.repo, r.Domain, r.At, r.Disks, reading.Options{Limits: r.Limits, Log: r.Log, Ours: r.isOurs})
	if err != nil {
		return Result{}, err
	}
	if r.xml, err = r.point.DomainXML(); err != nil {
		return Result{}, err
	}
	if err := r.makeDir(); err != nil {
		return Result{}, err
	}
	done := false
	defer func() { // after a panic, too
		if !done {
			err = errors.Join(err, r.removeMade())
		}
	}()
	r.Log.Debug(fmt.Sprintf("restore %s of domain %s, taken %s", r.point.ID, r.Domain, manifest.TimeText(r.point.Time)))
	result := Result{Domain: r.Domain, Point: r.point.ID, Time: r.point.Time, Dir: r.Dir}
	if result.Disks, err = r.restoreDisks(ctx); err != nil {
		return Result{}, err
	}
	if result.XML, err = r.restoreXML(); err != nil {
		return Result{}, err
	}
	result.Warnings = r.point.Warnings()
	result.Seconds = time.Since(start).Seconds()
	if err := errors.Join(localfile.SyncDir(r.Dir), fault.Point("restore: done")); err != nil {
		return Result{}, err
	}
	done = true
	return result, nil
}

// isOurs tells whether writing has failed, which no check of the images explains.
func (r *restorer) isOurs(err error) bool {
	var path *fs.PathError
	if !errors.As(err, &path) {
		return false
	}
	rel, pathErr := filepath.Rel(r.Dir, path.Path)
	return pathErr == nil && filepath.IsLocal(rel)
}

// checkDir finds out which directory is meant, and refuses one in a repository, this
// one or another: what is restored there would be damage to it, or a domain. From then
// on Dir is the path without symbolic links, so that all steps use the same directory.
func (r *restorer) checkDir() (err error) {
	if r.Dir, err = localfile.RealPath(r.Dir); err != nil {
		return fmt.Errorf("directory to restore to: %w", err)
	}
	if repo := description.Containing(r.Dir); repo != "" {
		return fail.Errorf(fail.Usage, "name a directory elsewhere with --to", "%s is in the repository %s: nothing is restored into a repository", r.Dir, repo)
	}
	return nil
}

// makeDir makes the directory, or sees that it is empty.
func (r *restorer) makeDir() error {
	entries, err := os.ReadDir(r.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return r.makeDirs()
	case errors.Is(err, syscall.ENOTDIR):
		return fail.Errorf(fail.Usage, "name a new directory with --to", "%s is not a directory", r.Dir)
	case err != nil:
		return fmt.Errorf("directory to restore to: %w", err)
	case len(entries) > 0:
		return fail.Errorf(fail.Usage, "name a new directory with --to; nothing is ever overwritten", "%s is not empty (it has %s)", r.Dir, entries[0].Name())
	}
	return nil
}

// makeDirs makes the directory and those above it that are missing. The name of each is
// durable only after an fsync of the directory above (fsync(2)).
func (r *restorer) makeDirs() error {
	for _, dir := range localfile.AbsentDirs(r.Dir) {
		err := os.Mkdir(dir, 0o700)
		if errors.Is(err, fs.ErrExist) { // somebody else's since a moment ago
			continue
		}
		if err == nil {
			r.makes(dir)
			err = localfile.SyncDir(filepath.Dir(dir))
		}
		if err != nil {
			return errors.Join(fmt.Errorf("make the directory to restore to: %w", err), r.removeMade())
		}
	}
	return nil
}

// makes takes what is to be removed if the restore fails, once it is made: another
// restore into the same directory may have made what has that name.
func (r *restorer) makes(path string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.made = append(r.made, path)
}

// removeMade undoes a failed restore.
func (r *restorer) removeMade() error {
	var errs []error
	for _, path := range slices.Backward(r.made) {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// restoreDisks restores all disks side by side, and names their images only
// when all are complete and all that they were made from has proven sound.
func (r *restorer) restoreDisks(ctx context.Context) ([]Disk, error) {
	var disks []Disk
	for _, d := range r.point.Disks() {
		disks = append(disks, Disk{Target: d.Target, Format: r.Format, VirtualSize: d.VirtualSize,
			Image: filepath.Join(r.Dir, d.Target+"."+string(r.Format))})
	}
	if r.Format == Raw {
		if err := r.checkSizes(disks); err != nil {
			return nil, err
		}
	}
	err := r.Limits.EachDisk(ctx, len(disks), func(ctx context.Context, i int) error {
		if err := r.restoreDisk(ctx, &disks[i]); err != nil {
			return fmt.Errorf("restore disk %s of %s@%s: %w", disks[i].Target, r.Domain, r.point.ID, err)
		}
		return nil
	})
	if err := r.point.CheckRest(ctx, err); err != nil {
		return nil, err
	}
	if err := fault.Point("restore: name images"); err != nil {
		return nil, err
	}
	for _, d := range disks {
		if err := localfile.RenameExclusive(d.Image+partialSuffix, d.Image); err != nil {
			return nil, err
		}
		r.makes(d.Image)
	}
	return disks, nil
}

// restoreDisk flattens a chain into one image.
func (r *restorer) restoreDisk(ctx context.Context, d *Disk) (err error) {
	images, closeImages, err := r.point.OpenDisk(ctx, d.Target)
	if err != nil {
		return err
	}
	defer closeImages()
	file, err := directio.Create(d.Image+partialSuffix, 0o600, directio.Auto)
	if err != nil {
		return err
	}
	r.makes(file.Name())
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := fault.Point("restore disk"); err != nil {
		return err
	}
	copied := func(bytes int64) { r.Progress(d.Target, bytes, -1) }
	if d.Format == Raw {
		d.DataBytes, err = copyRaw(ctx, images, file, copied)
	} else {
		d.DataBytes, err = copyQCOW2(ctx, images, file, copied)
	}
	if err != nil {
		return err
	}
	if !file.Direct() {
		r.Log.Debug(fmt.Sprintf("the file system of %s refuses O_DIRECT: the image of disk %s went through the page cache, which was emptied behind it", r.Dir, d.Target))
	}
	return file.Sync()
}

func copyRaw(ctx context.Context, images *chain.Chain, file *directio.File, copied func(bytes int64)) (int64, error) {
	if err := file.Truncate(images.Size()); err != nil {
		return 0, err
	}
	raw := &rawImage{file: file, size: images.Size(), cluster: images.ClusterSize()}
	err := flatten.Copy(ctx, images, raw, copied)
	return raw.data.Load(), err
}

func copyQCOW2(ctx context.Context, images *chain.Chain, file *directio.File, copied func(bytes int64)) (int64, error) {
	file.Grow()
	writer, err := qcow2.NewWriter(file, qcow2.Options{VirtualSize: images.Size(), ClusterSize: int(images.ClusterSize())})
	if err != nil {
		return 0, err
	}
	if err := flatten.Copy(ctx, images, writer, copied); err != nil {
		return 0, err
	}
	stats, err := writer.Finish(file.Sync)
	if err != nil {
		return 0, err
	}
	return stats.DataBytes, file.Truncate(stats.FileBytes)
}

// restoreXML puts the domain's XML, as it was, beside the images, unless it is damaged.
func (r *restorer) restoreXML() (path string, err error) {
	if r.xml == nil {
		return "", nil
	}
	path = filepath.Join(r.Dir, strings.ReplaceAll(r.Domain, "/", "_")+".xml")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	r.makes(path)
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := fault.Point("restore: write XML"); err != nil {
		return "", err
	}
	if _, err := f.Write(r.xml); err != nil {
		return "", err
	}
	return path, f.Sync()
}
