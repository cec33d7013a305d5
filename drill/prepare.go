package drill

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/virtbackup/virtbackup/drill/machine"
	"github.com/virtbackup/virtbackup/drill/record"
	"github.com/virtbackup/virtbackup/drill/remains"
	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/guest/qemuuser"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/restore/needs"
)

// The names of files in the drill's directory. Those of overlays are the targets of the disks.
const (
	serverName  = "nbd.sock"
	consoleName = "console.sock"
	nvramName   = "variables"
	imageSuffix = ".qcow2"
)

// maxSocket is how long the path of a socket may be, in bytes (unix(7), without the zero byte).
const maxSocket = 107

// copied is a file of the point that the domain starts with.
type copied struct {
	extra manifest.Extra
	path  string
}

// prepare finds the point, and does all that changes nothing: the domain's XML, what the host lacks.
func (d *drill) prepare(ctx context.Context) (err error) {
	var digest string
	err = d.repo.Read(ctx, d.Domain, func() (err error) {
		if d.point, err = d.repo.Find(d.Domain, d.At); err != nil {
			return err
		}
		if digest, err = d.repo.ManifestDigest(d.Domain, d.point.ID); err != nil {
			return err
		}
		doc, err := d.repo.ReadFile(d.point, manifest.DomainXML)
		d.doc = string(doc)
		return err
	})
	if err != nil {
		return err
	}
	if err := d.choosePlace(); err != nil {
		return err
	}
	request := d.machineRequest()
	if d.machine, err = machine.New(d.doc, request); err != nil {
		return fmt.Errorf("boot %s@%s: %w", d.point.Domain, d.point.ID, err)
	}
	if !d.machine.Agent && d.Expect == "" && d.Script == "" {
		return fail.Errorf(fail.Usage, "--expect TEXT waits for a text on its serial console, --script FILE asks a program of yours",
			"domain %s has no channel for a guest agent: nothing would show that it is up", d.point.Domain)
	}
	d.result = d.newResult(digest)
	return d.checkHost()
}

// newResult is the record of the drill before it begins. digest is that of the point's manifest.
func (d *drill) newResult(digest string) record.Record {
	host, _ := os.Hostname()
	return record.Record{Format: manifest.Format, ID: d.note.ID, Domain: d.point.Domain, Point: d.point.ID, Identity: d.point.Identity, PointTime: d.point.Time,
		Manifest: digest, Host: host, By: d.by(), Memory: d.machine.Memory, VCPUs: d.machine.VCPUs, Notes: d.machine.Notes}
}

// by is what is going to show that the guest is up.
func (d *drill) by() string {
	switch {
	case d.Script != "":
		return record.ByScript
	case d.Expect != "":
		return record.ByConsole
	}
	return record.ByAgent
}

// choosePlace decides where the drill's directory is going to be.
func (d *drill) choosePlace() error {
	parent := guest.RunDir(d.ScratchDir)
	d.note = remains.New(d.repo, parent)
	if !filepath.IsAbs(parent) {
		return fail.Errorf(fail.Usage, "name one with its absolute path", "%s is not the absolute path of a directory", parent)
	}
	if socket := filepath.Join(d.note.Dir(), consoleName); len(socket) > maxSocket {
		return fail.Errorf(fail.Usage, "name one with a shorter path: --scratch-dir", "the path of the socket %s has %d bytes, and may have %d", socket, len(socket), maxSocket)
	}
	return nil
}

// machineRequest says what the domain is made of.
func (d *drill) machineRequest() machine.Request {
	dir := d.note.Dir()
	r := machine.Request{
		Name: d.note.Name(), Title: fmt.Sprintf("virtbackup boots %s@%s", d.point.Domain, d.point.ID),
		UUID: d.note.UUID, GenID: remains.NewUUID(), Owner: d.note.Owner(),
		Disks: map[string]string{}, Files: map[string]string{},
		NVRAM:   filepath.Join(dir, nvramName),
		Console: filepath.Join(dir, consoleName),
		Memory:  d.Memory, MostMemory: spareMemory(), VCPUs: d.VCPUs, MostVCPUs: runtime.NumCPU(),
	}
	for _, disk := range d.point.Disks {
		r.Disks[disk.Target] = filepath.Join(dir, disk.Target+imageSuffix)
	}
	for i, e := range d.point.Extras {
		file := copied{e, filepath.Join(dir, fmt.Sprintf("file%d", i))}
		switch {
		case e.Kind == manifest.ExtraTPM:
			continue // not a file of the domain's: see makeTPM
		case e.Kind == manifest.ExtraNVRAM && e.Format != "json":
			file.path, r.NVRAMFormat = r.NVRAM, e.Format
		case e.Path != "":
			r.Files[e.Path] = file.path
		default:
			continue
		}
		d.files = append(d.files, file)
	}
	return r
}

// checkHost looks for what the host lacks, and for the user that QEMU runs as.
func (d *drill) checkHost() error {
	missing, err := needs.Of(d.machine.XML, d.host, needs.Options{Dir: d.note.Dir(), Start: true})
	if err != nil {
		return err
	}
	if len(missing.Lacks) > 0 {
		var all []string
		for _, lack := range missing.Lacks {
			all = append(all, lack.What)
		}
		return fail.WithHint(fmt.Errorf("%s@%s cannot be booted here: %s", d.point.Domain, d.point.ID, strings.Join(all, "; ")),
			"%s", cmp.Or(missing.Lacks[0].Hint, "drill it on a host like that of the domain"))
	}
	for _, doubt := range missing.Doubts {
		d.Log.Debug("libvirt may not start the domain: " + doubt)
	}
	capabilities, err := d.host.Capabilities()
	if err != nil {
		return err
	}
	if d.user, err = qemuuser.Find(d.machine.XML, capabilities); err != nil {
		return err
	}
	if err := guest.MakeRunDir(d.ScratchDir); err != nil {
		return err
	}
	if d.user != nil && !d.user.CanEnter(d.note.Parent) {
		return fail.WithHint(fmt.Errorf("QEMU, which runs as %s, cannot enter %s", d.user.Name, d.note.Parent),
			"chmod o+x it and the directories above it, or name another one with --scratch-dir")
	}
	return d.checkRoom()
}
