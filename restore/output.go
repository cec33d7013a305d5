package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/virtbackup/virtbackup/description"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

// ToStdout is the output that stands for standard output.
const ToStdout = "-"

// Output restores one disk to a new file, a block device or standard output. What Run says of
// images holds for a file. A device is overwritten; a restore that does not end leaves its
// first MiB as zeros, so that nothing takes it for a whole disk, and can be begun again.
// Whoever reads standard output knows only by the error that all of it was right.
//
// Errors: those of Run; fail.Usage if the output is in use, too small or something else.
func Output(ctx context.Context, repo *repository.Repository, request Request) (result OutputResult, err error) {
	r := &restorer{Request: request.withDefaults(), repo: repo}
	if len(r.Disks) != 1 {
		return result, fail.Errorf(fail.Usage, "--disk vda", "--output takes exactly one disk, which --disk names")
	}
	write, err := r.chooseOutput()
	if err != nil {
		return result, err
	}
	if err := r.validate(); err != nil {
		return result, err
	}
	err = repo.Read(ctx, r.Domain, func() (err error) {
		again := &restorer{Request: r.Request, repo: repo}
		result, err = again.output(ctx, write)
		return err
	})
	return result, err
}

// outputWay writes the disk. beyond is what a device has behind it, in bytes.
type outputWay func(r *restorer, ctx context.Context, d *Disk) (beyond int64, err error)

func (r *restorer) output(ctx context.Context, write outputWay) (OutputResult, error) {
	start := time.Now()
	if err := r.open(); err != nil {
		return OutputResult{}, err
	}
	d := r.point.Disks()[0]
	disk := Disk{Target: d.Target, Format: r.Format.of(d), VirtualSize: d.VirtualSize, Image: r.Output}
	r.Log.Debug(fmt.Sprintf("restore disk %s of %s of domain %s, taken %s", d.Target, r.point.ID, r.Domain, manifest.TimeText(r.point.Time)))
	beyond, err := write(r, ctx, &disk)
	if err != nil {
		return OutputResult{}, err
	}
	return OutputResult{Domain: r.Domain, Point: r.point.ID, Time: r.point.Time, Output: r.Output, Disk: disk, Beyond: beyond,
		Seconds: time.Since(start).Seconds(), Warnings: r.point.Warnings(), Lost: r.point.Lost()}, nil
}

// chooseOutput finds out what the output is. From then on Output is the path without symbolic
// links, and Dir is the directory of a file.
func (r *restorer) chooseOutput() (outputWay, error) {
	if r.Output == ToStdout {
		return (*restorer).outputStream, r.onlyRaw("standard output")
	}
	var err error
	if r.Output, err = localfile.RealPath(r.Output); err != nil {
		return nil, fmt.Errorf("--output: %w", err)
	}
	if repo := description.Containing(r.Output); repo != "" {
		return nil, fail.Errorf(fail.Usage, "name a file elsewhere with --output", "%s is in the repository %s: nothing is restored into a repository", r.Output, repo)
	}
	info, err := os.Stat(r.Output)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return (*restorer).outputFile, r.checkNewFile()
	case err != nil:
		return nil, fmt.Errorf("--output: %w", err)
	}
	switch mode := info.Mode(); {
	case mode.IsRegular():
		return (*restorer).outputFile, r.checkNewFile()
	case mode.IsDir():
		return nil, fail.Errorf(fail.Usage, "name a file in it, or --to "+manifest.ShellWord(r.Output), "%s is a directory", r.Output)
	case mode&fs.ModeDevice == 0 || mode&fs.ModeCharDevice != 0:
		return nil, fail.Errorf(fail.Usage, "--output - writes to standard output", "%s is neither a new file nor a block device", r.Output)
	}
	return (*restorer).outputDevice, r.onlyRaw("a block device")
}

// onlyRaw refuses what raw bytes have not.
func (r *restorer) onlyRaw(what string) error {
	switch {
	case r.Format == QCOW2:
		return fail.Errorf(fail.Usage, "leave out --format", "%s takes raw bytes, no qcow2 image", what)
	case r.Zstd != 0:
		return fail.Errorf(fail.Usage, "leave out --compress", "%s takes raw bytes, which are not compressed", what)
	case r.Preallocation != PreallocateOff:
		return fail.Errorf(fail.Usage, "leave out --preallocation", "%s has no space to preallocate", what)
	}
	r.Format = Raw
	return nil
}

// checkNewFile refuses a file that there is, but for what a killed restore has left, and one
// that would be in memory: a device that is not there.
func (r *restorer) checkNewFile() error {
	r.Dir, r.Format = filepath.Dir(r.Output), cmp.Or(r.Format, QCOW2)
	if r.Dir == "/dev" || strings.HasPrefix(r.Dir, "/dev/") && !strings.HasPrefix(r.Dir+"/", "/dev/shm/") {
		return fail.Errorf(fail.Usage, "lsblk shows the devices", "there is no device %s", r.Output)
	}
	info, err := os.Stat(r.Dir)
	if err == nil && !info.IsDir() || errors.Is(err, fs.ErrNotExist) {
		return fail.Errorf(fail.Usage, "make it, or name a file elsewhere with --output", "there is no directory %s", r.Dir)
	}
	return err
}

// outputFile makes an image.
func (r *restorer) outputFile(ctx context.Context, d *Disk) (beyond int64, err error) {
	done := false
	defer func() { // after a panic, too
		if !done {
			err = errors.Join(err, r.removeMade())
		}
	}()
	if err := r.takeName(); err != nil {
		return 0, err
	}
	disks, err := r.restoreDisks(ctx)
	if err != nil {
		return 0, err
	}
	if err := r.nameAll([]string{r.Output}); err != nil {
		return 0, err
	}
	if err := errors.Join(r.endClaim(), fault.Point("restore: done")); err != nil {
		return 0, err
	}
	*d, done = disks[0], true
	return 0, nil
}

// takeName claims the name of the file, and removes what a killed restore has left of it.
func (r *restorer) takeName() error {
	path := filepath.Join(r.Dir, "."+filepath.Base(r.Output)+markerName)
	if err := r.wantAbsent(path, nil); err != nil {
		return err
	}
	claim, err := takeClaim(path)
	if err != nil {
		return err
	}
	if err := r.wantAbsent(path, claim); err != nil {
		return errors.Join(err, claim.giveUp())
	}
	r.claim = claim
	if len(claim.left) > 0 {
		r.Log.Info(fmt.Sprintf("a killed restore has left a part of %s: it is removed", r.Output))
		if err := claim.clear(); err != nil {
			return err
		}
	}
	return claim.begin(r.names())
}

// wantAbsent refuses files that there are, and that no killed restore has left. Without a
// claim, what the marker names is for the claim to find out.
func (r *restorer) wantAbsent(marker string, claim *claim) error {
	if claim == nil {
		if _, err := os.Lstat(marker); err == nil {
			return nil
		}
	}
	for _, name := range r.names() {
		_, err := os.Lstat(filepath.Join(r.Dir, name))
		known := claim != nil && slices.Contains(claim.left, name) && claim.changed() == ""
		if !errors.Is(err, fs.ErrNotExist) && !known {
			return fail.Errorf(fail.Usage, "name a new file with --output; nothing is ever overwritten", "%s exists", filepath.Join(r.Dir, name))
		}
	}
	return nil
}
