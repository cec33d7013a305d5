// Package extras takes into a point what a domain needs to start besides its disks: UEFI
// variables, a firmware of its own, kernel, initrd and the like given by path, the state of
// its TPM, and whether libvirt starts it with the host. It also puts the state of a TPM back.
//
// What cannot be taken is a warning: a point without it is worth a lot more than none.
package extras

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/xml"
)

// Domain is what is asked of a domain: a guest.Domain.
type Domain interface {
	UUID() string
	XML() (string, error)
	InactiveXML() (string, error)
	Persistent() (bool, error)
	Active() (bool, error)
	guest.Firmware
}

// Point takes the files: a *repository.Partial.
type Point interface {
	// Dir is a directory beside those of the domain's sealed points.
	Dir() string
	CopyFile(name string, from io.Reader) (digest string, size int64, err error)
	LinkFile(name string, of manifest.Manifest, file string) error
	DropFile(name string) error
}

// Request is what to take from where.
type Request struct {
	Domain Domain
	Point  Point
	// Earlier are sealed points of the domain, the newest last. A large file that the newest
	// has, too, is stored once.
	Earlier []manifest.Manifest
	// First says that the point begins a chain: only there it is a warning that something
	// cannot be taken from any domain that runs, and a note in the others.
	First bool
	// Moves, if not nil, is called whenever something was read.
	Moves func()
}

// Taken is what was taken.
type Taken struct {
	Extras    []manifest.Extra
	Autostart bool
	// Warnings and Notes are sentences for people.
	Warnings, Notes []string
}

// taker is one call of Take.
type taker struct {
	Request
	Taken
	active bool
	now    xml.Boot // of the domain as it is
	stored xml.Boot // of the domain as it would be started next, which is in the point
	tpmDir string
}

// Take takes all that it can. An error is one of the repository, or the cause of a cancelled
// ctx; all others are warnings.
func Take(ctx context.Context, request Request) (Taken, error) {
	t := &taker{Request: request, tpmDir: swtpmDir}
	if t.Moves == nil {
		t.Moves = func() {}
	}
	err := t.take(ctx)
	return t.Taken, err
}

func (t *taker) take(ctx context.Context) error {
	if err := t.look(); err != nil {
		t.warn("what the domain needs to start besides its disks is not in the point: %v", err)
		return nil
	}
	for _, take := range []func(context.Context) error{t.takeNVRAM, t.takeTPM, t.takeFiles} {
		if err := take(ctx); err != nil {
			return err
		}
	}
	return nil
}

// look asks libvirt about the domain.
func (t *taker) look() (err error) {
	if t.Autostart, err = t.Domain.Autostart(); err != nil {
		t.warn("whether libvirt starts the domain with the host is not in the point: %v", err)
	}
	if t.active, err = t.Domain.Active(); err != nil {
		return err
	}
	if t.now, err = parse(t.Domain.XML); err != nil {
		return err
	}
	t.stored = t.now
	if persistent, err := t.Domain.Persistent(); err != nil || !persistent {
		return err
	}
	t.stored, err = parse(t.Domain.InactiveXML)
	return err
}

func parse(get func() (string, error)) (xml.Boot, error) {
	doc, err := get()
	if err != nil {
		return xml.Boot{}, err
	}
	return xml.ParseBoot(doc)
}

// takeFiles takes files that nothing writes to while the domain runs.
func (t *taker) takeFiles(ctx context.Context) error {
	type file struct {
		kind         manifest.ExtraKind
		name, path   string
		format, what string
	}
	files := []file{
		{manifest.ExtraKernel, "kernel", t.stored.Kernel, "", "the kernel"},
		{manifest.ExtraInitrd, "initrd", t.stored.Initrd, "", "the initrd"},
		{manifest.ExtraDTB, "dtb", t.stored.DTB, "", "the device tree"},
		{manifest.ExtraShim, "shim", t.stored.Shim, "", "the shim"},
	}
	for i, table := range t.stored.ACPITables {
		files = append(files, file{manifest.ExtraACPI, fmt.Sprintf("acpi%d", i+1), table, "", "an ACPI table"})
	}
	if l := t.stored.Loader; l != nil && !packaged(l.Source) {
		files = append(files, file{manifest.ExtraLoader, "loader.fd", l.Source, l.Format, "the firmware"})
	}
	for _, f := range files {
		if f.path == "" {
			continue
		}
		if err := t.takeFile(ctx, manifest.Extra{Kind: f.kind, File: f.name, Path: f.path, Format: f.format}, f.what); err != nil {
			return err
		}
	}
	return nil
}

// packaged tells whether a firmware is a part of the system: a package has it, and every host
// has its own. It would not be right to put it back.
func packaged(path string) bool {
	return strings.HasPrefix(path, "/usr/") && !strings.HasPrefix(path, "/usr/local/")
}

// takeFile takes one file; what says what it is, in a warning.
func (t *taker) takeFile(ctx context.Context, e manifest.Extra, what string) error {
	err := t.store(ctx, e)
	var source *sourceError
	if errors.As(err, &source) {
		t.warn("%s is not in the point: %v", what, source)
		return nil
	}
	return err
}

func (t *taker) store(ctx context.Context, e manifest.Extra) error {
	if err := e.Validate(); err != nil { // the point could not be sealed
		return &sourceError{e.Path, err}
	}
	return fault.Around("extra "+string(e.Kind), func() error {
		e, err := t.copySteady(ctx, e)
		if err == nil {
			t.Extras = append(t.Extras, e)
		}
		return err
	})
}

func (t *taker) warn(format string, args ...any) {
	t.Warnings = append(t.Warnings, fmt.Sprintf(format, args...))
}

func (t *taker) note(format string, args ...any) {
	t.Notes = append(t.Notes, fmt.Sprintf(format, args...))
}

// sourceError says that something of the domain could not be read, not that the repository
// could not be written.
type sourceError struct {
	path string
	err  error
}

func (e *sourceError) Error() string { return e.path + ": " + reason(e.err) }
func (e *sourceError) Unwrap() error { return e.err }

func reason(err error) string {
	if errors.Is(err, errUnsteady) || errors.Is(err, errBacking) {
		return err.Error()
	}
	return localfile.Reason(err)
}
