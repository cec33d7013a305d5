// Package machine makes the XML of the domain that a drill boots, from that of the point. It is not
// the point's with changes, but a document of its own: what it takes over is in lists (list.go),
// and what is in no list is not there. So it has no network, no device of the host, no shared
// directory and no path of the original, also those that a later libvirt invents.
//
// It does no I/O, and builds without cgo.
package machine

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/xml/edit"
)

// namespace is that of what a drill writes into <metadata>.
const namespace = "https://github.com/virtbackup/virtbackup/drill/1"

// agentChannel is the name that guest agents look for (libvirt's documentation of channels).
const agentChannel = "org.qemu.guest_agent.0"

// Owner says whose a domain is.
type Owner struct {
	Repository string // its id
	Drill      string // the drill's id
}

// Request is what a domain is made of besides the XML of a point.
type Request struct {
	Name, Title string
	UUID, GenID string
	Owner       Owner
	// Disks are the images, by the targets of the disks. What has no image is no disk of the domain.
	Disks map[string]string
	// Files are copies of what else the domain starts with, by the paths in the point's XML.
	Files map[string]string
	// NVRAM is the copy of the UEFI variables, in NVRAMFormat ("raw", "qcow2"). Where the point
	// has none, libvirt makes it from the firmware's template.
	NVRAM, NVRAMFormat string
	// Console is a socket that QEMU connects to as the first serial port.
	Console string
	// Memory, in bytes, and VCPUs are what the domain has; 0 is as in the point, but not more than the Most.
	Memory, MostMemory int64
	VCPUs, MostVCPUs   int
}

// Machine is a domain to boot.
type Machine struct {
	XML     string
	Memory  int64 // bytes
	VCPUs   int
	Targets []string // of its disks
	Agent   bool     // it has a channel for a guest agent
	Screen  bool     // it has a video device
	TPM     bool     // it has an emulated TPM
	Notes   []string // what a person should know: less memory, variables of its own
}

// maker makes one.
type maker struct {
	Request
	document
	domain *edit.Element
	made   Machine
}

// New makes the domain from the XML of a point. The error says what of it cannot be booted here.
func New(doc string, r Request) (Machine, error) {
	parsed, err := edit.Parse(doc)
	if err != nil {
		return Machine{}, fmt.Errorf("the domain's XML: %w", err)
	}
	m := &maker{Request: r, domain: parsed.Root()}
	if err := m.write(); err != nil {
		return Machine{}, err
	}
	m.made.XML = m.b.String()
	return m.made, nil
}

func (m *maker) write() error {
	virtType := m.domain.Value("type")
	if m.domain.Name() != "domain" || virtType != "kvm" && virtType != "qemu" {
		return fail.Errorf(fail.Other, "restore --define makes a domain of it", "the domain is of type %q: drills boot those of type kvm and qemu", virtType)
	}
	m.open("domain", attr("type", virtType))
	m.identity()
	if err := m.size(); err != nil {
		return err
	}
	if err := m.os(); err != nil {
		return err
	}
	m.behaviour()
	if err := m.devices(); err != nil {
		return err
	}
	m.close("domain")
	return nil
}

func (m *maker) identity() {
	m.element("name", "", m.Name)
	m.element("uuid", "", m.UUID)
	if m.domain.Child("genid") != nil { // tells the guest that it is a copy
		m.element("genid", "", m.GenID)
	}
	m.element("title", "", m.Title)
	m.open("metadata", "")
	m.line("<drill:drill xmlns:drill='" + namespace + "'" + attr("repository", m.Owner.Repository) + attr("id", m.Owner.Drill) + "/>")
	m.close("metadata")
}

// OwnerOf reads whose a domain is from its XML; false if it is that of no drill.
func OwnerOf(doc string) (Owner, bool) {
	parsed, err := edit.Parse(doc)
	if err != nil {
		return Owner{}, false
	}
	for _, e := range parsed.Root().Children("metadata/drill:drill") {
		if e.Value("xmlns:drill") == namespace {
			return Owner{Repository: e.Value("repository"), Drill: e.Value("id")}, true
		}
	}
	return Owner{}, false
}

// size is how much memory and how many processors the domain has.
func (m *maker) size() error {
	memory, err := bytesOf(m.domain.Child("memory"))
	if err != nil {
		return err
	}
	switch {
	case m.Memory > 0:
		memory = m.Memory
	case m.MostMemory > 0 && memory > m.MostMemory:
		m.note("it has %d MiB of memory instead of %d MiB: the host has no more to spare (--memory)", m.MostMemory>>20, memory>>20)
		memory = m.MostMemory
	}
	vcpu := m.domain.Child("vcpu")
	count, err := strconv.Atoi(cmp.Or(vcpu.Value("current"), vcpu.Text(), "1"))
	if err != nil || count < 1 {
		return fmt.Errorf("the domain's XML has the number of processors %q", vcpu.Text())
	}
	own := count
	switch {
	case m.VCPUs > 0:
		count = m.VCPUs
	case m.MostVCPUs > 0 && count > m.MostVCPUs:
		m.note("it has %d processors instead of %d: the host has no more (--vcpus)", m.MostVCPUs, count)
		count = m.MostVCPUs
	}
	m.made.Memory, m.made.VCPUs = memory, count
	m.element("memory", " unit='KiB'", strconv.FormatInt(memory>>10, 10))
	m.element("vcpu", "", strconv.Itoa(count))
	m.processor(count == own && (vcpu.Value("current") == "" || vcpu.Value("current") == vcpu.Text()))
	return nil
}

// processor takes the kind of processor over, and how many there are of which unit if same is set.
func (m *maker) processor(same bool) {
	e := m.domain.Child("cpu")
	if e == nil {
		return
	}
	list := cpu
	if same {
		list.children = map[string]element{"topology": topology}
		for name, child := range cpu.children {
			list.children[name] = child
		}
	}
	m.take(e, list)
}

// units are those of memory, in bytes (libvirt's virScaleInteger).
var units = map[string]int64{
	"": 1 << 10, "b": 1, "bytes": 1, "KB": 1000, "k": 1 << 10, "KiB": 1 << 10, "MB": 1000_000, "M": 1 << 20, "MiB": 1 << 20,
	"GB": 1000_000_000, "G": 1 << 30, "GiB": 1 << 30, "TB": 1000_000_000_000, "T": 1 << 40, "TiB": 1 << 40,
}

func bytesOf(e *edit.Element) (int64, error) {
	n, err := strconv.ParseInt(e.Text(), 10, 64)
	unit, known := units[e.Value("unit")]
	if err != nil || !known || n <= 0 || n > (1<<50)/unit {
		return 0, fmt.Errorf("the domain's XML has the memory %q %q", e.Text(), e.Value("unit"))
	}
	return n * unit, nil
}

// behaviour is what is not a device. Whatever ends the guest ends the domain.
func (m *maker) behaviour() {
	if e := m.domain.Child("features"); e != nil {
		list := element{children: with(named(element{}), "smm", smm)}
		for name, child := range features.children {
			list.children[name] = child
		}
		m.take(e, list)
	}
	if e := m.domain.Child("clock"); e != nil {
		offset := e.Value("offset")
		if !slices.Contains([]string{"utc", "localtime", "variable"}, offset) {
			offset = "utc"
		}
		list := clock
		if offset != "variable" {
			list.attrs = nil
		}
		m.open("clock", attr("offset", offset))
		m.takeChildren(e, list.children)
		m.close("clock")
	}
	for _, name := range []string{"on_poweroff", "on_reboot", "on_crash"} {
		m.element(name, "", "destroy")
	}
}

func (m *maker) devices() error {
	m.open("devices", "")
	if err := m.disks(); err != nil {
		return err
	}
	for _, e := range m.domain.Children("devices/controller") {
		if slices.Contains(controllerTypes, e.Value("type")) {
			m.take(e, controller)
		}
	}
	m.console()
	m.channel()
	m.screen()
	m.tpm()
	if m.domain.Child("devices/rng") != nil { // guests wait for random numbers early
		m.line("<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>")
	}
	m.line("<memballoon model='none'/>")
	m.close("devices")
	return nil
}

// disks have overlays that are thrown away, so QEMU need not flush them. The guest pauses instead
// of meeting an I/O error, which may be a damage of the point: the drill sees it.
func (m *maker) disks() error {
	for _, e := range m.domain.Children("devices/disk") {
		target := e.Child("target").Value("dev")
		image := m.Disks[target]
		if image == "" || slices.Contains(m.made.Targets, target) {
			continue
		}
		m.made.Targets = append(m.made.Targets, target)
		m.open("disk", " type='file' device='disk'")
		m.line("<driver name='qemu' type='qcow2' cache='unsafe' error_policy='stop' rerror_policy='stop'/>")
		m.line("<source" + attr("file", image) + "/>")
		m.takeChildren(e, disk)
		m.close("disk")
	}
	if len(m.made.Targets) == 0 {
		return errors.New("the domain's XML has none of the disks of the point")
	}
	return nil
}

// console is the first serial port or, of a guest without one, its first console.
func (m *maker) console() {
	kind, e := "serial", m.domain.Child("devices/serial")
	if e == nil {
		if first := m.domain.Child("devices/console"); first != nil && first.Child("target").Value("type") != "serial" {
			kind, e = "console", first
		}
	}
	m.open(kind, " type='unix'")
	m.line("<source mode='connect'" + attr("path", m.Console) + "/>")
	if target := e.Child("target"); target != nil {
		m.take(target, port)
	} else {
		m.line("<target port='0'/>")
	}
	m.close(kind)
}

func (m *maker) channel() {
	for _, e := range m.domain.Children("devices/channel") {
		if e.Child("target").Value("name") != agentChannel || m.made.Agent {
			continue
		}
		m.made.Agent = true
		m.open("channel", " type='unix'")
		m.line("<target type='virtio' name='" + agentChannel + "'/>")
		m.takeChildren(e, map[string]element{"address": address})
		m.close("channel")
	}
}

func (m *maker) screen() {
	e := m.domain.Child("devices/video")
	kind := e.Child("model").Value("type")
	if e == nil {
		return
	}
	m.made.Screen = kind != "none"
	m.take(e, video)
}

// tpm is an emulated one, whose state libvirt keeps by the UUID. A secret is only named: without
// it the state cannot be read.
func (m *maker) tpm() {
	e := m.domain.Child("devices/tpm")
	backend := e.Child("backend")
	if backend.Value("type") != "emulator" {
		return
	}
	m.made.TPM = true
	attrs := ""
	if model := e.Value("model"); harmless.MatchString(model) {
		attrs = attr("model", model)
	}
	m.open("tpm", attrs)
	version := cmp.Or(backend.Value("version"), "2.0")
	if !harmless.MatchString(version) {
		version = "2.0"
	}
	m.open("backend", " type='emulator'"+attr("version", version))
	if secret := backend.Child("encryption").Value("secret"); harmless.MatchString(secret) {
		m.line("<encryption" + attr("secret", secret) + "/>")
	}
	m.close("backend")
	m.close("tpm")
}

func (m *maker) note(format string, args ...any) {
	m.made.Notes = append(m.made.Notes, fmt.Sprintf(format, args...))
}

// packaged tells whether a file is a part of the host's system, as firmware is: of no domain.
func packaged(path string) bool {
	return filepath.Clean(path) == path && strings.HasPrefix(path, "/usr/") && !strings.HasPrefix(path, "/usr/local/")
}
