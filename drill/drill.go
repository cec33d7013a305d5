package drill

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/drill/machine"
	"github.com/virtbackup/virtbackup/drill/record"
	"github.com/virtbackup/virtbackup/drill/remains"
	"github.com/virtbackup/virtbackup/guest/qemuuser"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

// drill is one drill.
type drill struct {
	Request
	repo  *repository.Repository
	host  Host
	point manifest.Manifest
	doc   string // the XML of the point's domain

	machine machine.Machine
	files   []copied // what the domain starts with besides disks
	note    remains.Note
	running *remains.Running
	user    *qemuuser.User // QEMU's; nil: this process's, or root

	server  *server
	console *console
	domain  *hypervisor.Domain
	result  record.Record
	screen  []byte // a picture of it, as PNG
}

// Run boots a point, and takes away all that it has made for that. The result is that of the record,
// which is kept when the guest was started and not interrupted.
//
// Errors: *NotBootedError, of kind fail.Damaged where the guest has read what is damaged;
// fail.Usage, fail.NotFound, *damage.Error, and what the host lacks: nothing was started then.
func Run(ctx context.Context, repo *repository.Repository, host Host, request Request) (result record.Record, err error) {
	d := &drill{Request: request, repo: repo, host: host}
	if err := d.complete(); err != nil {
		return record.Record{}, err
	}
	if err := d.prepare(ctx); err != nil {
		return record.Record{}, err
	}
	if err := d.cleanUp(); err != nil {
		return record.Record{}, err
	}
	d.result.Time = time.Now().UTC()
	if d.running, err = d.note.Begin(repo, d.point.Domain); err != nil {
		return record.Record{}, writable(err)
	}
	// The note goes after the record: it tells whose an unfinished record is.
	defer func() { err = errors.Join(err, d.running.End(host)) }()
	return d.bootAndRecord(ctx)
}

// writable says of a repository that is read-only why it must not be.
func writable(err error) error {
	if errors.Is(err, unix.EROFS) {
		return fail.WithHint(err, "a drill writes its result into the repository: mount it for writing")
	}
	return err
}

func (d *drill) bootAndRecord(ctx context.Context) (record.Record, error) {
	booted, err := d.boot(ctx)
	if failure := d.server.failure(); booted && failure != nil { // since the guest was found to be up
		booted, err = false, errors.Join(d.unreadable(failure), err)
	}
	var not *NotBootedError
	if !booted && !errors.As(err, &not) {
		return record.Record{}, err // it says nothing of the point
	}
	if not != nil {
		d.result.Reason = not.Reason
	}
	d.result.Booted = booted
	d.result.Console = d.console.lines()
	if err := fault.Point("drill: write record"); err != nil {
		return d.result, err
	}
	return d.result, errors.Join(err, writable(record.Add(d.repo.DomainDir(d.point.Domain), d.result, d.screen)))
}

// boot boots the guest and awaits the verdict. The guest is ended in any case.
func (d *drill) boot(ctx context.Context) (booted bool, err error) {
	if err := d.makeFiles(ctx); err != nil {
		return false, err
	}
	if d.server, err = d.startServer(ctx); err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, d.server.end()) }()
	if err := d.makeOverlays(); err != nil {
		return false, err
	}
	if d.console, err = listen(filepath.Join(d.running.Dir(), consoleName), d.Expect, d.giveSocket); err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, d.console.close()) }()
	if err := fault.Point("drill: start domain"); err != nil {
		return false, err
	}
	start := time.Now()
	if d.domain, err = d.host.CreateTransient(d.machine.XML); err != nil {
		return false, fmt.Errorf("boot %s@%s: %w", d.point.Domain, d.point.ID, err)
	}
	if err := fault.Point("drill: domain runs"); err != nil {
		return false, err
	}
	// It reads from the server until it is gone.
	defer func() { err = errors.Join(err, d.running.EndDomain(d.host)) }()
	var not *NotBootedError
	if err = d.verdict(ctx, start); err == nil || errors.As(err, &not) {
		d.takeScreenshot(ctx)
	}
	if err != nil { // libvirt has had the time to notice its end
		err = cmp.Or(d.lost(), err)
	}
	return err == nil, err
}
