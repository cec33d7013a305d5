package instant

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/keep"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/restore"
	"github.com/virtbackup/virtbackup/restore/define"
)

// Request is what to run, and where.
type Request struct {
	define.Request
	// SocketDir is where the server's socket and its log are; "" is guest.DefaultRunDir.
	SocketDir string
	// Bandwidth bounds what is pulled of each disk, in bytes a second; 0 is no bound.
	Bandwidth uint64
	// Program is how this program is called, with its global options.
	Program []string
}

// Result is what was made. Its seconds are those until the domain stood alone, the data of its disks the
// space that their images have then.
type Result struct {
	define.Result
	// RunningSeconds is how long it took until the domain ran; 0 where it did already.
	RunningSeconds float64 `json:"running_seconds"`
}

// run is one domain that runs from a point.
type run struct {
	Request
	repo *repository.Repository
	host define.Host
	pin  keep.Pin

	server  *server
	domain  *hypervisor.Domain
	release func() error // of the lock on the pin
	said    map[string]bool
	failed  time.Time // when the server could not be started last
	woken   time.Time // when the guest was resumed last
	starts  bool      // the domain starts with the host
	off     bool      // a question was not answered because the domain had ended
}

// socketPrefix begins the names of the servers' sockets.
const socketPrefix = guest.NamePrefix + "instant-"

// Run makes a domain run from a point, and returns once it stands alone. Cancelling ctx while it runs
// leaves it running from the point: Resume goes on.
//
// Errors: those of define.Run, and nothing is left then; of fail.Damaged if the domain runs and
// cannot be completed.
func Run(ctx context.Context, repo *repository.Repository, host define.Host, request Request) (Result, error) {
	r := newRun(repo, host, request)
	start := time.Now()
	defined, err := r.create(ctx)
	result := Result{Result: defined, RunningSeconds: time.Since(start).Seconds()}
	if err != nil {
		return result, errors.Join(err, r.letGo())
	}
	r.Log.Info(fmt.Sprintf("domain %s runs, %.1f s after the start, from %s of %s: its data is pulled to %s meanwhile",
		defined.Name, result.RunningSeconds, defined.Point, manifest.TimeText(defined.Time), defined.Dir))
	err = r.complete(ctx)
	result.measure(start)
	result.Autostart = r.starts
	return result, err
}

// measure sets what is known in the end: how long it took, and the space that the images have.
func (result *Result) measure(start time.Time) {
	result.Seconds = time.Since(start).Seconds()
	for i := range result.Disks {
		var stat unix.Stat_t
		if unix.Stat(result.Disks[i].Image, &stat) == nil {
			result.Disks[i].DataBytes = stat.Blocks * 512
		}
	}
}

func newRun(repo *repository.Repository, host define.Host, request Request) *run {
	if request.Log == nil {
		request.Log = slog.New(slog.DiscardHandler)
	}
	if request.Progress == nil {
		request.Progress = func(string, int64, int64) {}
	}
	return &run{Request: request, repo: repo, host: host, said: map[string]bool{}}
}

// create has the domain run from the point, or leaves nothing.
func (r *run) create(ctx context.Context) (result define.Result, err error) {
	socket := filepath.Join(guest.RunDir(r.SocketDir), socketPrefix+manifest.NewIdentity()+".sock")
	r.Start, r.Format = true, restore.QCOW2
	r.Ready = func(ctx context.Context) error { return r.server.await(ctx) }
	r.Mark = func(target string) string { return markOf(socket) + target }
	r.Overlay = func(target string) string { return qcow2.NBDSocket + target + "?socket=" + socket }
	if err := r.notUnderWay("", cmp.Or(r.Name, r.Domain)); err != nil {
		return result, err
	}
	prepared, err := define.Prepare(ctx, r.repo, r.host, r.Request.Request)
	if err != nil {
		return result, err
	}
	if err := r.notUnderWay(prepared.Dir(), ""); err != nil {
		return result, err
	}
	if err := guest.MakeRunDir(r.SocketDir); err != nil {
		return result, err
	}
	undo := func() error { return nil }
	defer func() {
		if undo != nil { // after a panic, too
			err = errors.Join(err, undo())
		}
	}()
	if err := r.pinPoint(prepared, socket); err != nil {
		return result, err
	}
	undo = r.forget // what a restore that fails has made, it removes itself
	if err := fault.Point("instant: pinned"); err != nil {
		return result, err
	}
	if err := r.server.begin(); err != nil { // it opens its images while the domain's are made
		return result, err
	}
	result, err = prepared.Run(ctx)
	if err != nil {
		if result.Name != "" { // it does not start
			undo = r.takeAway
		}
		return define.Result{}, err
	}
	undo = nil
	r.domain, err = r.host.DomainByUUID(result.UUID)
	return result, err
}

// pinPoint writes down what is going to be.
func (r *run) pinPoint(prepared *define.Prepared, socket string) error {
	name, uuid := prepared.Domain()
	runs := keep.Runs{Name: name, UUID: uuid, Dir: prepared.Dir(), Socket: socket, Files: prepared.Files(),
		Place: r.repo.Place(), Made: localfile.AbsentDirs(prepared.Dir()), Policies: map[string]map[string]string{}, Sizes: map[string]int64{}}
	for _, d := range prepared.Point().Disks {
		runs.Sizes[d.Target] = d.VirtualSize
	}
	var err error
	if runs.Device, err = deviceOf(runs.Dir); err != nil {
		return err
	}
	for target, p := range prepared.Policies() {
		runs.Policies[target] = p
	}
	lock, err := r.repo.Lock(r.Domain)
	if err != nil {
		return err
	}
	pin, err := r.pinLocked(lock, prepared.Point(), runs)
	if err = errors.Join(err, lock.Unlock()); err != nil {
		return err
	}
	if err := r.take(pin); err != nil {
		return errors.Join(err, r.repo.Unpin(r.Domain, pin.ID))
	}
	return nil
}

// deviceOf is the device of the file system that a directory is on, or will be on when it is made.
func deviceOf(dir string) (uint64, error) {
	if absent := localfile.AbsentDirs(dir); len(absent) > 0 {
		dir = filepath.Dir(absent[0])
	}
	var stat unix.Stat_t
	if err := unix.Stat(dir, &stat); err != nil {
		return 0, &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	return stat.Dev, nil
}

// pinLocked pins the point that was looked at: meanwhile it may have been removed, and another one made
// under its name; or another restore to the directory has begun.
func (r *run) pinLocked(lock *repository.Lock, point manifest.Manifest, runs keep.Runs) (keep.Pin, error) {
	if err := r.notUnderWay(runs.Dir, runs.Name); err != nil {
		return keep.Pin{}, err
	}
	pin, err := lock.PinFor(point.ID, runs)
	if err == nil && pin.Identity != point.Identity {
		err = errors.Join(fmt.Errorf("point %s of domain %s was replaced by another one meanwhile", point.ID, r.Domain), r.repo.Unpin(r.Domain, pin.ID))
	}
	return pin, err
}

// socketName is what create makes.
var socketName = regexp.MustCompile("^" + regexp.QuoteMeta(socketPrefix) + "[0-9a-f]{16}[.]sock$")

// take makes a pin this process's. The paths in it are from the repository, which somebody else may have
// written: files beside the socket, and the socket, are removed.
func (r *run) take(pin keep.Pin) (err error) {
	if socket := pin.Runs.Socket; !filepath.IsAbs(socket) || !socketName.MatchString(filepath.Base(socket)) {
		return fail.Errorf(fail.Damaged, "look at it, and remove it if no domain needs it", "pin %s of domain %s is not one of virtbackup's: its socket is %q", pin.ID, r.Domain, socket)
	}
	if pin.Runs.Place != r.repo.Place() {
		return fail.Errorf(fail.Other, "use the repository that the domain was restored from",
			"the repository is a copy of the one that domain %s runs from, or was moved to another file system", pin.Runs.Name)
	}
	r.release, err = r.repo.HoldPin(r.Domain, pin.ID)
	if fail.Is(err, fail.Locked) {
		err = fail.WithHint(err, "end it first: the domain goes on running meanwhile")
	}
	if err != nil {
		return err
	}
	r.pin = pin
	r.server = &server{program: r.Program, domain: r.Domain, pin: pin}
	return nil
}

// letGo gives the pin up, whether it is still there or not.
func (r *run) letGo() error {
	if r.release == nil {
		return nil
	}
	defer func() { r.release = nil }()
	return r.release()
}

// here are the pins of domains that run, or were to run, from points of the domain on this host.
func (r *run) here() (pins []keep.Pin, err error) {
	here, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	all, _, err := r.repo.Pins(r.Domain)
	return slices.DeleteFunc(all, func(p keep.Pin) bool { return p.Runs == nil || p.Host != here }), err
}

// notUnderWay refuses to begin while an instant restore is under way, or was killed, to the same directory
// or with the same name: it may have what its guest has written.
func (r *run) notUnderWay(dir, name string) error {
	pins, err := r.here()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(pins, func(p keep.Pin) bool { return p.Runs.Dir == dir || p.Runs.Name == name })
	if i < 0 {
		return nil
	}
	return fail.Errorf(fail.Usage, goesOn(r.Domain, *pins[i].Runs), "an instant restore of %s to %s is under way, or was killed", pins[i].Point, pins[i].Runs.Dir)
}

// goesOn says what can be done with a domain that runs from a point.
func goesOn(domain string, runs keep.Runs) string {
	return fmt.Sprintf("virtbackup restore %s --to %s --resume goes on; --abandon takes domain %s away", manifest.ShellWord(domain), manifest.ShellWord(runs.Dir), runs.Name)
}
