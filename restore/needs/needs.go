// Package needs finds out what a host lacks that a domain needs to start: emulator, machine
// type, processor, firmware, networks, storage, devices. It changes nothing.
package needs

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/xml/edit"
)

// Host is what is asked of libvirt; *hypervisor.Conn is one.
type Host interface {
	Capabilities() (string, error)
	DomainCapabilities(emulator, arch, machine, virtType string) (string, error)
	CompareCPU(emulator, arch, machine, cpu string) (runs bool, missing string, err error)
	Network(name string) (hypervisor.Presence, error)
	Volume(pool, name string) (found hypervisor.Presence, volume bool, err error)
	TryStart(doc string) error
}

// Lack is something that the host lacks.
type Lack struct {
	What string // "the bridge br0 does not exist"
	Hint string // what to do about it; "" where nothing is known
}

// Findings is what Of has found.
type Findings struct {
	Lacks []Lack
	// Doubts is what libvirt says against starting the domain that may be no obstacle.
	Doubts []string
}

// Options of Of.
type Options struct {
	// Dir is where files of the domain are going to be: they are not looked for.
	Dir string
	// Start asks for what only a start needs, too: networks that are active.
	Start bool
	// Root is where the host's files are, "" for "/". For tests.
	Root string
}

// checker is one check. What cannot be asked for is no lack: libvirt says so itself.
type checker struct {
	Options
	host    Host
	domain  *edit.Element
	support *edit.Element // <domainCapabilities>, nil where they are unknown
	found   Findings
	seen    map[string]bool
}

// Of finds all that the host lacks for a domain, whose XML is given. An error is libvirt's,
// which then does not say what it can.
func Of(doc string, host Host, o Options) (Findings, error) {
	domain, err := edit.Parse(doc)
	if err != nil {
		return Findings{}, err
	}
	capabilities, err := host.Capabilities()
	if err != nil {
		return Findings{}, err
	}
	known, err := edit.Parse(capabilities)
	if err != nil {
		return Findings{}, fmt.Errorf("capabilities of the host: %w", err)
	}
	c := &checker{Options: o, host: host, domain: domain.Root(), seen: map[string]bool{}}
	if c.machine(known.Root()) {
		c.processor()
		c.firmware()
		c.models()
	}
	c.files()
	if err := c.networks(); err != nil {
		return Findings{}, err
	}
	if err := c.storage(); err != nil {
		return Findings{}, err
	}
	c.devices()
	c.tryStart(doc)
	return c.found, nil
}

// tryStart asks libvirt itself, if nothing is known to be missing. What it would not define is
// a lack. What it says besides may not be true: it prepares nothing.
func (c *checker) tryStart(doc string) {
	if len(c.found.Lacks) > 0 {
		return
	}
	err := c.host.TryStart(doc)
	switch {
	case err == nil:
	case errors.Is(err, hypervisor.ErrUnsupported):
		c.lack("", "libvirt says: %v", err)
	case len(c.all("hostdev")) == 0: // whose addresses are looked up at the start
		c.found.Doubts = append(c.found.Doubts, err.Error())
	}
}

// lack adds what is missing, once.
func (c *checker) lack(hint, format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	if !c.seen[what] {
		c.seen[what] = true
		c.found.Lacks = append(c.found.Lacks, Lack{what, hint})
	}
}

// exists says whether the host has a file. Where that cannot be found out, it is assumed.
func (c *checker) exists(path string) bool {
	_, err := os.Stat(c.Root + path)
	return !os.IsNotExist(err)
}

// file demands a file, unless it is one that is going to be made.
func (c *checker) file(path, what, hint string) {
	if path != "" && strings.HasPrefix(path, "/") && !c.ours(path) && !c.exists(path) {
		c.lack(hint, "%s %s does not exist", what, path)
	}
}

// ours says whether a path is in Dir.
func (c *checker) ours(path string) bool {
	return c.Dir != "" && strings.HasPrefix(path, strings.TrimSuffix(c.Dir, "/")+"/")
}

// all returns the domain's devices of a kind.
func (c *checker) all(kind string) []*edit.Element { return c.domain.Children("devices/" + kind) }
