package instant

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/keep"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/restore"
	"github.com/virtbackup/virtbackup/restore/define"
)

// Resume goes on with what Run has begun to a directory, whatever has ended it: the host, too. What was
// killed before the domain ran for the first time is begun again. Of the Request it takes the domain,
// the directory, and how to do it.
//
// Errors: those of Run; fail.NotFound if there is nothing to go on with, fail.Locked if another
// process is at work.
func Resume(ctx context.Context, repo *repository.Repository, host define.Host, request Request) (result Result, err error) {
	start := time.Now()
	r := newRun(repo, host, request)
	if err := r.findIn(request.Dir); err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, r.letGo()) }()
	whole, err := r.isWhole()
	if err != nil {
		return Result{}, err
	}
	if !whole {
		if has, err := r.hasRun(); err != nil {
			return Result{}, err
		} else if has {
			return Result{}, fail.WithHint(fmt.Errorf("libvirt has no domain with the UUID %s, whose images in %s may have what its guest has written", r.pin.Runs.UUID, r.pin.Runs.Dir),
				"define domain %s again with this UUID, and --resume; --abandon removes the images", r.pin.Runs.Name)
		}
		return r.beginAgain(ctx)
	}
	if result, err = r.result(); err != nil {
		return Result{}, err
	}
	if err := r.wakeUp(ctx); err != nil {
		return Result{}, err
	}
	err = r.complete(ctx)
	result.measure(start)
	result.Autostart = r.starts
	return result, err
}

// findIn finds the pin by the directory of the images, and takes it.
func (r *run) findIn(dir string) error {
	if dir == "" {
		return fail.Errorf(fail.Usage, "--to DIR, as the domain was restored to", "no directory")
	}
	dir, err := restore.RealDir(dir)
	if err != nil {
		return err
	}
	pins, err := r.here()
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(pins, func(p keep.Pin) bool { return p.Runs.Dir == dir }); i >= 0 {
		return r.take(pins[i])
	}
	hint := "it stands alone, or was taken away"
	if len(pins) > 0 {
		hint = "elsewhere one does: " + goesOn(r.Domain, *pins[0].Runs)
	}
	return fail.Errorf(fail.NotFound, hint, "no domain runs from a point of %s in %s", r.Domain, dir)
}

// isWhole tells whether the domain is there with all of its files: it has run, or could have.
func (r *run) isWhole() (bool, error) {
	var err error
	if r.domain, err = r.host.DomainByUUID(r.pin.Runs.UUID); errors.Is(err, hypervisor.ErrNoDomain) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	// The marker goes when all is there. A domain of that UUID was there before, perhaps, and is another one.
	marked, err := r.marked()
	return !marked, err
}

// marked tells whether the directory has the marker of a restore that is not complete.
func (r *run) marked() (bool, error) {
	_, err := os.Lstat(restore.MarkerOf(r.pin.Runs.Dir))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// hasRun tells whether what is not whole has been so, or may have been: there are images that need the
// server, and no marker of a restore that was killed; or its file system is not mounted, as far as can be
// told. A domain that was undefined since is no reason to remove them.
func (r *run) hasRun() (bool, error) {
	if marked, err := r.marked(); err != nil || marked {
		return false, err
	}
	image, err := r.inNeed()
	if err != nil || image != "" {
		return image != "", err
	}
	device, err := deviceOf(r.pin.Runs.Dir)
	return device != r.pin.Runs.Device, err
}

// beginAgain restores the same point to the same directory, where a restore was killed before its domain
// could run: what that has left is known by its marker (restore.Run).
func (r *run) beginAgain(ctx context.Context) (Result, error) {
	r.Log.Info(fmt.Sprintf("the domain %s has not run yet: its restore to %s is begun again", r.pin.Runs.Name, r.pin.Runs.Dir))
	if err := errors.Join(r.takeAway(), r.letGo()); err != nil {
		return Result{}, err
	}
	request := r.Request
	request.At, request.Name = r.pin.Point, ""
	if r.pin.Runs.Name != r.Domain {
		request.Name = r.pin.Runs.Name
	}
	return Run(ctx, r.repo, r.host, request)
}

// wakeUp has the server listen and the domain run, both of which may have ended.
func (r *run) wakeUp(ctx context.Context) error {
	if len(r.server.damage()) > 0 { // that has been repaired, perhaps: it is found again if not
		if err := r.server.stop(); err != nil {
			return err
		}
	}
	if _, err := r.server.ensure(ctx); err != nil {
		return err
	}
	active, err := r.domain.Active()
	if err != nil || active {
		return err
	}
	// What a killed QEMU has not written must not be seen as zeros by the guest.
	pulls, err := r.pulls()
	if err != nil {
		return err
	}
	for _, p := range pulls {
		if unsettled, err := r.unsettled(p.image); err != nil || unsettled {
			if err = errors.Join(err, r.giveBack(p.image)); err != nil {
				return err
			}
		}
	}
	if err := fault.Point("instant: start domain"); err != nil {
		return err
	}
	return r.domain.Start()
}

// result is what is known of a domain that an earlier process has made.
func (r *run) result() (Result, error) {
	m, err := r.repo.Point(r.Domain, r.pin.Point)
	if err != nil {
		return Result{}, err
	}
	result := Result{Result: define.Result{Name: r.pin.Runs.Name, UUID: r.pin.Runs.UUID, Changes: []string{}, Started: true}}
	result.Domain, result.Point, result.Time, result.Dir = r.Domain, m.ID, m.Time, r.pin.Runs.Dir
	at := restore.Request{Dir: r.pin.Runs.Dir, Format: restore.QCOW2}
	for _, d := range m.Disks {
		image, format := at.ImageOf(d)
		result.Disks = append(result.Disks, restore.Disk{Target: d.Target, Image: image, Format: format, VirtualSize: d.VirtualSize})
	}
	return result, nil
}
