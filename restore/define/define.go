package define

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/virtbackup/virtbackup/guest/qemuuser"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/restore"
	"github.com/virtbackup/virtbackup/xml/adapt"
)

// definer is one restore.
type definer struct {
	Request
	repo  *repository.Repository
	host  Host
	point manifest.Manifest

	adapted  adapt.Result
	policies map[string]adapt.Policies // of the disks of the point's XML
	owner    *qemuuser.User            // of the files; nil if they keep the owner that they have
	warned   []string
	domain   *hypervisor.Domain // once it is defined
	result   Result

	tpmDir string // swtpmDir; another one in tests
	tpmPut bool   // the state of the TPM was put there
	aside  string // where the state is now that was there; "" if there was none
	now    func() time.Time
}

// Run restores a point and defines a domain on it.
//
// Errors: *LackError if the host lacks something; those of restore.Run; those of libvirt.
// Whatever the error, nothing is left of the restore, except if the domain does not start:
// then it stays defined, a second restore is not needed, and the Result is returned with the error.
func Run(ctx context.Context, repo *repository.Repository, host Host, request Request) (Result, error) {
	p, err := Prepare(ctx, repo, host, request)
	if err != nil {
		return Result{}, err
	}
	return p.Run(ctx)
}

// Prepared is a restore that could begin: what the host lacks was looked for, and what the domain
// will be is known.
type Prepared struct{ d *definer }

// Prepare does what Run does before it changes anything.
func Prepare(ctx context.Context, repo *repository.Repository, host Host, request Request) (*Prepared, error) {
	d := &definer{Request: request, repo: repo, host: host, tpmDir: swtpmDir, now: time.Now}
	if err := d.prepare(ctx); err != nil {
		return nil, err
	}
	return &Prepared{d}, nil
}

// Point is the one that is restored.
func (p *Prepared) Point() manifest.Manifest { return p.d.point }

// Domain is the one that will be defined.
func (p *Prepared) Domain() (name, uuid string) { return p.d.adapted.Name, p.d.adapted.UUID }

// Dir is the directory of the images, without symbolic links.
func (p *Prepared) Dir() string { return p.d.Dir }

// Files are the names of what is made in the directory.
func (p *Prepared) Files() []string {
	names := []string{p.d.XMLName()}
	for _, disk := range p.d.point.Disks {
		path, _ := p.d.ImageOf(disk)
		names = append(names, filepath.Base(path))
	}
	for _, e := range p.d.point.Extras {
		names = append(names, e.File)
	}
	return names
}

// Policies are what an I/O error did in the point's domain, by the targets of the disks.
func (p *Prepared) Policies() map[string]adapt.Policies { return p.d.policies }

// Run restores and defines what was prepared. It may be called once.
func (p *Prepared) Run(ctx context.Context) (Result, error) { return p.d.run(ctx) }

func (d *definer) run(ctx context.Context) (Result, error) {
	d.At, d.DirMode, d.Defines = d.point.ID, dirMode, d.adapted.UUID
	d.Finish, d.Undo = d.finish, d.undo
	restored, err := restore.Run(ctx, d.repo, d.Request.Request)
	if err != nil {
		return Result{}, err
	}
	if err := d.forgetHalfRestored(); err != nil {
		d.warn("backups of domain %s are refused until %s is removed, the mark of a restore in place that was killed: %v", d.Domain, d.repo.MarkPath(d.Domain, repository.MarkHalfRestored), err)
	}
	d.result.Result = restored
	d.result.Warnings = append(d.result.Warnings, d.warned...)
	err = d.start(ctx)
	return d.result, err
}

// forgetHalfRestored removes the mark of a restore in place that was killed: the domain has other
// disks now. Without a mark it does not touch the repository, which may be read-only.
func (d *definer) forgetHalfRestored() error {
	if _, err := os.Lstat(d.repo.MarkPath(d.Domain, repository.MarkHalfRestored)); d.Name != "" || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	lock, err := d.repo.Lock(d.Domain)
	if err != nil {
		return err
	}
	return errors.Join(lock.ClearDurableMark(repository.MarkHalfRestored), lock.Unlock())
}

// prepare finds the point, makes the domain's new XML, and looks for what the host lacks.
func (d *definer) prepare(ctx context.Context) (err error) {
	if err := d.validate(); err != nil {
		return err
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Format == "" {
		d.Format = restore.AsSource
	}
	if d.Dir, err = restore.RealDir(d.Dir); err != nil {
		return err
	}
	var doc []byte
	err = d.repo.Read(ctx, d.Domain, func() (err error) {
		if d.point, err = d.repo.Find(d.Domain, d.At); err != nil {
			return err
		}
		doc, err = d.repo.ReadFile(d.point, manifest.DomainXML)
		return err
	})
	if fail.Is(err, fail.Damaged) {
		err = fail.WithHint(err, "virtbackup restore --to DIR --disk TARGET restores the images alone")
	}
	if err != nil {
		return err
	}
	if d.policies, err = adapt.PoliciesOf(string(doc)); err != nil {
		return fmt.Errorf("the XML of %s@%s: %w", d.Domain, d.point.ID, err)
	}
	if d.adapted, err = adapt.Domain(string(doc), d.adaptation()); err != nil {
		return fmt.Errorf("the XML of %s@%s: %w", d.Domain, d.point.ID, err)
	}
	if err := d.sameDomain(); err != nil {
		return err
	}
	d.leaveOutUnused()
	for _, disk := range d.adapted.Unused {
		if d.Overlay != nil {
			d.warn("disk %s is in the point, and not in the domain's configuration: it was attached while the domain ran, and is not restored: virtbackup restore --to DIR --disk %s does that", disk.Target, disk.Target)
			continue
		}
		d.warn("disk %s is in the point, and not in the domain's configuration: it was attached while the domain ran, and is not a disk of the one that is defined. Its image is %s", disk.Target, disk.Image)
	}
	d.result.Name, d.result.UUID, d.result.Changes = d.adapted.Name, d.adapted.UUID, d.adapted.Notes
	return d.check()
}

// leaveOutUnused makes no overlays that are no disks of the domain: nothing would ever pull their data.
func (d *definer) leaveOutUnused() {
	if d.Overlay == nil || len(d.adapted.Unused) == 0 {
		return
	}
	unused := func(m manifest.Disk) bool {
		return slices.ContainsFunc(d.adapted.Unused, func(a adapt.Disk) bool { return a.Target == m.Target })
	}
	d.point.Disks = slices.DeleteFunc(slices.Clone(d.point.Disks), unused)
	for _, disk := range d.point.Disks {
		d.Disks = append(d.Disks, disk.Target)
	}
}

// uuidForm is how libvirt writes a UUID. It becomes a part of paths (see tpmOf).
var uuidForm = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// sameDomain refuses XML that is not of the domain that the point is of.
func (d *definer) sameDomain() error {
	uuid := d.adapted.UUID
	if !uuidForm.MatchString(uuid) || d.Name == "" && !strings.EqualFold(uuid, d.point.DomainUUID) {
		return fail.Errorf(fail.Damaged, "virtbackup restore --to DIR makes the images and the XML, to be looked at",
			"the XML of %s@%s is of a domain with the UUID %q, the point of one with %s", d.Domain, d.point.ID, uuid, d.point.DomainUUID)
	}
	return nil
}

// adaptation says what the domain's XML is to refer to.
func (d *definer) adaptation() adapt.Request {
	request := adapt.Request{Name: d.Name, Dir: d.Dir, Files: map[string]string{}, Exists: exists}
	for _, disk := range d.point.Disks {
		path, format := d.ImageOf(disk)
		request.Disks = append(request.Disks, adapt.Disk{Target: disk.Target, Image: path, Format: string(format), Stop: d.Overlay != nil})
	}
	_, request.TPM = d.tpm()
	for _, e := range d.point.Extras {
		switch {
		case isTPM(e): // not a file of the domain's
		case e.Kind == manifest.ExtraNVRAM && e.Format != varStore:
			request.NVRAM = adapt.File{Path: d.inDir(e), Format: e.Format}
		case e.Path != "":
			request.Files[e.Path] = d.inDir(e)
		}
	}
	return request
}

// exists says whether the host has a path. Where that cannot be found out, it is assumed.
func exists(path string) bool {
	_, err := os.Stat(path)
	return !os.IsNotExist(err)
}

// finish makes a domain of the images that were restored.
func (d *definer) finish(ctx context.Context, restored *restore.Result) error {
	if err := d.giveToQEMU(restored); err != nil {
		return err
	}
	if err := fault.Point("define: before the domain"); err != nil {
		return err
	}
	if ctx.Err() != nil { // restore.Run undoes the rest
		return context.Cause(ctx)
	}
	if err := d.stillFree(); err != nil {
		return err
	}
	if err := d.define(); err != nil {
		return err
	}
	if err := fault.Point("define: domain defined"); err != nil {
		return err
	}
	if err := d.putTPM(ctx, restored); err != nil {
		return err
	}
	return d.autostart()
}

// define defines the domain. XML that libvirt's schema does not accept is defined all the
// same: it comes from libvirt, whose own schema lags behind at times.
func (d *definer) define() (err error) {
	d.domain, err = d.host.Define(d.adapted.XML, true)
	if errors.Is(err, hypervisor.ErrSchema) {
		d.warn("the XML is not as libvirt's schema wants it, and is defined all the same: %v", err)
		d.domain, err = d.host.Define(d.adapted.XML, false)
	}
	if err != nil {
		return fail.WithHint(err, "virtbackup restore --to DIR makes the images and the XML, to be changed and defined by hand")
	}
	if d.domain.UUID() != d.adapted.UUID {
		return fmt.Errorf("libvirt has defined domain %s with the UUID %s, not %s", d.domain.Name(), d.domain.UUID(), d.adapted.UUID)
	}
	d.Log.Debug(fmt.Sprintf("domain %s is defined", d.domain.Name()))
	return nil
}

// autostart makes libvirt start the domain with the host if it did so when the point was
// made. A copy beside the original is started by hand.
func (d *definer) autostart() error {
	if err := fault.Point("define: autostart"); err != nil || !d.point.Autostart {
		return err
	}
	if d.Name == "" && d.Overlay != nil { // when it stands alone: with the host nothing would show it the point
		return nil
	}
	if d.Name != "" {
		d.result.Changes = append(d.result.Changes, fmt.Sprintf("%s does not start with the host, as %s did", d.Name, d.Domain))
		return nil
	}
	d.result.Autostart = true
	return d.domain.SetAutostart(true)
}

// start starts the domain, which is complete.
func (d *definer) start(ctx context.Context) error {
	if !d.Start {
		return nil
	}
	if d.Overlay != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err := fault.Point("define: start")
	if err == nil && d.Ready != nil {
		err = d.Ready(ctx)
	}
	if err == nil {
		err = d.domain.Start()
	}
	if err != nil && d.Overlay != nil {
		return err // it cannot be of use without its server
	}
	if err != nil {
		return fail.WithHint(fmt.Errorf("domain %s is restored to %s and defined, but does not start: %w", d.result.Name, d.Dir, err),
			"change what the message says (virsh edit %s), then virsh start %[1]s", manifest.ShellWord(d.result.Name))
	}
	d.result.Started = true
	return nil
}

func (d *definer) warn(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	d.warned = append(d.warned, text)
	d.Log.Warn(text)
}
