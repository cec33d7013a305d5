// Package restore makes standalone images of the disks of a restore point.
package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
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

	extras []manifest.Extra // the sound ones

	madeDirs []string // outermost first
	claim    *claim   // of the directory; nil before, and when all is done

	finishing bool // Finish was called

	mu   sync.Mutex // of what follows
	made []string   // files to remove if it fails, in the order of making; nothing else
}

// Run restores the disks of a point to standalone images, and puts the domain's
// XML and what else the domain needs to start beside them; where these are damaged that is a
// warning if disks are named. Nothing is
// overwritten: the directory must be new or empty, or have only what a killed restore has
// left in it, which is removed. An image gets its name only once
// it is complete and on stable storage, and all files that it was made from have been
// read and compared with their hashes. A failed restore removes what it has made.
//
// Errors: fail.Usage, fail.NotFound, fail.Locked, *damage.Error, and whatever
// the file system reports.
func Run(ctx context.Context, repo *repository.Repository, request Request) (result Result, err error) {
	r := &restorer{Request: request.withDefaults(), repo: repo}
	r.Format = cmp.Or(r.Format, QCOW2)
	if r.Dir == "" {
		return Result{}, fail.Errorf(fail.Usage, "--to DIR", "no directory to restore to")
	}
	if err := r.validate(); err != nil {
		return Result{}, err
	}
	if r.Dir, err = RealDir(r.Dir); err != nil {
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
	if err := r.open(); err != nil {
		return Result{}, err
	}
	if r.xml, err = r.point.DomainXML(); err != nil {
		return Result{}, err
	}
	if err := r.proveExtras(ctx); err != nil {
		return Result{}, err
	}
	done := false
	defer func() { // after a panic, too
		if !done {
			err = errors.Join(err, r.removeMade())
		}
	}()
	if err := r.takeDir(); err != nil {
		return Result{}, err
	}
	r.Log.Debug(fmt.Sprintf("restore %s of domain %s, taken %s", r.point.ID, r.Domain, manifest.TimeText(r.point.Time)))
	result := Result{Domain: r.Domain, Point: r.point.ID, Time: r.point.Time, Dir: r.Dir}
	if result.Disks, err = r.restoreDisks(ctx); err != nil {
		return Result{}, err
	}
	if result.Extras, err = r.restoreExtras(ctx); err != nil {
		return Result{}, err
	}
	if result.XML, err = r.restoreXML(); err != nil {
		return Result{}, err
	}
	if err := r.nameAll(result.files()); err != nil {
		return Result{}, err
	}
	result.Warnings, result.Lost, result.LostFiles = r.point.Warnings(), r.point.Lost(), r.point.LostFiles()
	if r.Finish != nil {
		r.finishing = true
		if err := r.Finish(ctx, &result); err != nil {
			return Result{}, err
		}
	}
	result.Seconds = time.Since(start).Seconds()
	if err := errors.Join(r.endClaim(), fault.Point("restore: done")); err != nil {
		return Result{}, err
	}
	done = true
	return result, nil
}

// open opens the point, and sees whether its disks can be what was asked for.
func (r *restorer) open() (err error) {
	r.point, err = reading.Open(r.repo, r.Domain, r.At, r.Disks, reading.Options{Limits: r.Limits, Log: r.Log, Ours: r.isOurs, Salvage: r.Salvage})
	if err != nil {
		return err
	}
	for _, d := range r.point.Disks() {
		if err := r.validateFor(d); err != nil {
			return err
		}
	}
	return nil
}

// endClaim removes the marker once all is there.
func (r *restorer) endClaim() error {
	if err := fault.Point("restore: remove marker"); err != nil {
		return err
	}
	if err := r.claim.release(); err != nil {
		return err
	}
	r.claim = nil
	return localfile.SyncDir(r.Dir)
}

// restoreDisks restores all disks side by side. It succeeds only if all are complete and all
// that they were made from has proven sound.
func (r *restorer) restoreDisks(ctx context.Context) ([]Disk, error) {
	var disks []Disk
	for _, d := range r.point.Disks() {
		disks = append(disks, Disk{Target: d.Target, Format: r.Format.of(d), VirtualSize: d.VirtualSize, Image: r.imagePath(d)})
	}
	if err := r.checkSizes(disks); err != nil {
		return nil, err
	}
	if err := r.checkSpace(ctx); err != nil {
		return nil, r.point.Explain(err)
	}
	err := r.Limits.EachDisk(ctx, len(disks), func(ctx context.Context, i int) error {
		if err := r.restoreDisk(ctx, &disks[i]); err != nil {
			return fmt.Errorf("restore disk %s of %s@%s: %w", disks[i].Target, r.Domain, r.point.ID, err)
		}
		return nil
	})
	if r.Overlay == nil {
		err = r.point.CheckRest(ctx, err)
	}
	return disks, err
}

// nameAll gives complete files their names.
func (r *restorer) nameAll(paths []string) error {
	if err := r.claim.complete(r.names(), paths, r.Defines); err != nil { // nothing is changed after that, but by others
		return err
	}
	if err := fault.Point("restore: name files"); err != nil {
		return err
	}
	for _, path := range paths {
		if err := localfile.RenameExclusive(path+partialSuffix, path); err != nil {
			return err
		}
		r.makes(path)
		if err := fault.Point("restore: file named"); err != nil {
			return err
		}
	}
	return nil
}
