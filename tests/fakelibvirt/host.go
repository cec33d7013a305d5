package fakelibvirt

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/nbdcopy"
	"github.com/virtbackup/virtbackup/source"
)

// Host is where the domains run.
type Host struct {
	mu      sync.Mutex
	domains []*Domain
	defined int // ever
}

var _ guest.Host = (*Host)(nil)

// Define adds a domain that runs, with one disk of that many bytes for each target.
func (h *Host) Define(name string, size int64, targets ...string) *Domain {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.defined++
	d := &Domain{name: name, uuid: fmt.Sprintf("%08x-0000-4000-8000-000000000000", h.defined),
		state: hypervisor.Running, runs: 1, Agent: AgentAnswers}
	for _, target := range targets {
		d.disks = append(d.disks, newDisk(target, make([]byte, size)))
	}
	h.domains = append(h.domains, d)
	return d
}

// Undefine removes a domain, with libvirt's records of its checkpoints.
func (h *Host) Undefine(d *Domain) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.domains = slices.DeleteFunc(h.domains, func(other *Domain) bool { return other == d })
}

func (h *Host) find(match func(*Domain) bool, what string) (guest.Domain, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if i := slices.IndexFunc(h.domains, match); i >= 0 {
		return h.domains[i], nil
	}
	return nil, fmt.Errorf("look up %s: %w", what, failure(hypervisor.ErrNoDomain, "Domain not found"))
}

// Domain looks a domain up by its name.
func (h *Host) Domain(name string) (guest.Domain, error) {
	return h.find(func(d *Domain) bool { return d.name == name }, "domain "+name)
}

// DomainByUUID looks a domain up by its UUID.
func (h *Host) DomainByUUID(uuid string) (guest.Domain, error) {
	return h.find(func(d *Domain) bool { return d.uuid == uuid }, "the domain with the UUID "+uuid)
}

// Domains names all domains.
func (h *Host) Domains() (names []string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range h.domains {
		names = append(names, d.name)
	}
	slices.Sort(names)
	return names, nil
}

// Versions are those of no libvirt and no QEMU.
func (h *Host) Versions() (libvirt, qemu string, err error) { return "0.0.1", "0.0.2", nil }

// Open opens an export of a job by the path of its socket, as nbdcopy.Open does.
func (h *Host) Open(_ context.Context, from nbdcopy.Source) (source.Export, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range h.domains {
		if e := d.export(from); e != nil {
			return e, nil
		}
	}
	return nil, fmt.Errorf("connect to export %s at %s: no such file or directory", from.Export, from.Socket)
}

// failure is an error as package hypervisor makes it.
func failure(kind error, format string, args ...any) error {
	return &hypervisor.Error{Kind: kind, Message: fmt.Sprintf(format, args...)}
}
