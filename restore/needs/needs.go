// Package needs finds out what a host lacks that a domain needs to start: emulator, machine
// type, processor, firmware, networks, storage, devices. It changes nothing.
package needs

import (
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
}

// Lack is something that the host lacks.
type Lack struct {
	What string // "the bridge br0 does not exist"
	Hint string // what to do about it; "" where nothing is known
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
	lacks   []Lack
	seen    map[string]bool
}

// Of returns all that the host lacks for a domain, whose XML is given. An error is libvirt's,
// which then does not say what it can.
func Of(doc string, host Host, o Options) ([]Lack, error) {
	domain, err := edit.Parse(doc)
	if err != nil {
		return nil, err
	}
	capabilities, err := host.Capabilities()
	if err != nil {
		return nil, err
	}
	known, err := edit.Parse(capabilities)
	if err != nil {
		return nil, fmt.Errorf("capabilities of the host: %w", err)
	}
	c := &checker{Options: o, host: host, domain: domain.Root(), seen: map[string]bool{}}
	if c.machine(known.Root()) {
		c.processor()
		c.firmware()
		c.models()
	}
	c.files()
	if err := c.networks(); err != nil {
		return nil, err
	}
	if err := c.storage(); err != nil {
		return nil, err
	}
	c.devices()
	return c.lacks, nil
}

// lack adds what is missing, once.
func (c *checker) lack(hint, format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	if !c.seen[what] {
		c.seen[what] = true
		c.lacks = append(c.lacks, Lack{what, hint})
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
