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
	"github.com/virtbackup/virtbackup/diskimage"
	"github.com/virtbackup/virtbackup/flatten"
	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/qcow2/chain"
	"github.com/virtbackup/virtbackup/repository"
)

// partialSuffix ends the name of an image that is not complete.
const partialSuffix = ".partial"

// restorer is one restore.
type restorer struct {
	Request
	repo  *repository.Repository
	point manifest.Manifest
	disks []manifest.Disk
	xml   []byte

	mu       sync.Mutex // of what follows
	made     []string   // what to remove if it fails, in the order of making; nothing else
	warnings []string
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
	if err := r.choose(); err != nil {
		return Result{}, err
	}
	chains, err := r.chains()
	if err != nil {
		return Result{}, r.explain(err)
	}
	if r.xml, err = r.readXML(); err != nil {
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
	if result.Disks, err = r.restoreDisks(ctx, chains); err != nil {
		return Result{}, err
	}
	if result.XML, err = r.restoreXML(); err != nil {
		return Result{}, err
	}
	result.Warnings = r.warnings
	result.Seconds = time.Since(start).Seconds()
	if err := errors.Join(localfile.SyncDir(r.Dir), fault.Point("restore: done")); err != nil {
		return Result{}, err
	}
	done = true
	return result, nil
}

// choose finds the point and its disks.
func (r *restorer) choose() error {
	var err error
	if r.point, err = r.repo.Find(r.Domain, r.At); err != nil {
		return err
	}
	for _, target := range r.Disks {
		if _, ok := r.point.Disk(target); !ok {
			return fail.Errorf(fail.NotFound, "virtbackup show "+manifest.ShellWord(r.Domain+"@"+r.point.ID), "point %s of domain %s has no disk %q", r.point.ID, r.Domain, target)
		}
	}
	for _, d := range r.point.Disks {
		if len(r.Disks) == 0 || slices.Contains(r.Disks, d.Target) {
			r.disks = append(r.disks, d)
		}
	}
	return nil
}

// link is one image of a chain, and what was proven of it; nil is nothing.
type link struct {
	diskimage.Link
	proven *hashlist.ProvenRanges
}

// chains lists the images of each disk, base first. Their headers are checked
// before anything is written.
func (r *restorer) chains() ([][]link, error) {
	all := make([][]link, len(r.disks))
	for i, d := range r.disks {
		images, err := r.repo.Links(r.Domain, r.point.ID, d.Target)
		if err != nil {
			return nil, err
		}
		for _, image := range images {
			all[i] = append(all[i], link{Link: image})
		}
	}
	return all, nil
}

// openProving opens a chain to be read as a whole.
func (r *restorer) openProving(ctx context.Context, links []link) (*chain.Chain, func(), error) {
	var files []diskimage.Link
	for _, l := range links {
		files = append(files, l.Link)
	}
	images, proven, closeImages, err := diskimage.OpenChain(ctx, files, hashlist.ReadOptions{Warn: r.warn})
	for i, ranges := range proven {
		links[i].proven = ranges
	}
	return images, closeImages, err
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
func (r *restorer) restoreDisks(ctx context.Context, chains [][]link) ([]Disk, error) {
	disks := make([]Disk, len(r.disks))
	for i, d := range r.disks {
		disks[i] = Disk{Target: d.Target, Format: r.Format, VirtualSize: d.VirtualSize,
			Image: filepath.Join(r.Dir, d.Target+"."+string(r.Format))}
	}
	if r.Format == Raw {
		if err := r.checkSizes(disks); err != nil {
			return nil, err
		}
	}
	err := r.Limits.EachDisk(ctx, len(disks), func(ctx context.Context, i int) error {
		if err := r.restoreDisk(ctx, chains[i], &disks[i]); err != nil {
			return fmt.Errorf("restore disk %s of %s@%s: %w", disks[i].Target, r.Domain, r.point.ID, err)
		}
		return nil
	})
	if err := r.checkAfter(ctx, err, chains); err != nil {
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

// restoreDisk flattens a chain into one image. What of the chain it has proven to
// be sound is noted in its links.
func (r *restorer) restoreDisk(ctx context.Context, links []link, d *Disk) (err error) {
	images, closeImages, err := r.openProving(ctx, links)
	if err != nil {
		return err
	}
	defer closeImages()
	if images.Size() != d.VirtualSize {
		return fmt.Errorf("%s has %d bytes, its manifest says %d", links[len(links)-1].Path, images.Size(), d.VirtualSize)
	}
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
