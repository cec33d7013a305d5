package hypervisor

import (
	"errors"
	"fmt"
	"sync/atomic"

	"libvirt.org/go/libvirt"
)

// Domain is a guest. It holds no libvirt object: each call looks the domain up by its UUID, which takes a fraction of a
// millisecond and still works after libvirtd was restarted.
type Domain struct {
	conn *Conn
	// maker is the connection that it ends with (CreateTransient); nil: with none.
	maker *libvirt.Connect
	name  string
	uuid  string

	// agentTimeout is the agent's response timeout, in seconds, that Freeze has left set in libvirt for Thaw; 0: none.
	agentTimeout atomic.Int32
}

// Name returns the name that the domain was looked up by.
func (d *Domain) Name() string { return d.name }

// UUID returns the domain's UUID, in libvirt's spelling.
func (d *Domain) UUID() string { return d.uuid }

// with runs f on the domain; twice if the connection was lost (see withRetry).
func (d *Domain) with(f func(*libvirt.Domain) error) error {
	return d.conn.withRetry(func(conn *libvirt.Connect) error { return d.on(conn, f) })
}

// once runs f on the domain, never twice. It checks the connection first, and opens it again if necessary.
func (d *Domain) once(f func(*libvirt.Domain) error) error {
	if err := d.with(func(*libvirt.Domain) error { return nil }); err != nil {
		return err
	}
	_, lost, err := d.conn.call(func(conn *libvirt.Connect) error { return d.on(conn, f) })
	if lost {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return err
}

func (d *Domain) on(conn *libvirt.Connect, f func(*libvirt.Domain) error) error {
	dom, err := conn.LookupDomainByUUIDString(d.uuid)
	if err != nil {
		return err
	}
	defer func() { _ = dom.Free() }()
	return f(dom)
}

// orNotRunning marks what libvirt answers about a domain without a QEMU: VIR_ERR_OPERATION_INVALID or
// VIR_ERR_OPERATION_UNSUPPORTED, which both mean other things too.
func (d *Domain) orNotRunning(err error) error {
	var e *Error
	if !errors.As(err, &e) {
		return err
	}
	if code := libvirt.ErrorNumber(e.Code); code != libvirt.ERR_OPERATION_INVALID && code != libvirt.ERR_OPERATION_UNSUPPORTED {
		return err
	}
	if active, activeErr := d.Active(); activeErr != nil || active {
		return err
	}
	return withKind(err, ErrNotRunning)
}

// XML returns the domain as it is now: of a running one the live state, whose disks are the ones that a job can name
// (virDomainGetXMLDesc, no flags).
func (d *Domain) XML() (string, error) { return d.xml(0) }

// InactiveXML returns the domain as it will start next time (virDomainGetXMLDesc with VIR_DOMAIN_XML_INACTIVE): without
// what libvirt made up for this run, so that it can be defined again.
func (d *Domain) InactiveXML() (string, error) { return d.xml(libvirt.DOMAIN_XML_INACTIVE) }

func (d *Domain) xml(flags libvirt.DomainXMLFlags) (doc string, err error) {
	err = d.with(func(dom *libvirt.Domain) error {
		doc, err = dom.GetXMLDesc(flags)
		return err
	})
	return doc, about(err, "read the XML of domain %s", d.name)
}

// State is what a domain is doing, as far as it matters for a backup.
type State int

// The states. Everything that is neither running nor shut off counts as Paused: nothing executes, but QEMU is there.
const (
	ShutOff     State = iota // no QEMU: no job is possible
	Running                  // also while it shuts down
	Paused                   // by a person, by a tool or by libvirt
	PausedForIO              // QEMU stopped it after an I/O error, for example ENOSPC
)

func (s State) String() string {
	switch s {
	case Running:
		return "running"
	case Paused:
		return "paused"
	case PausedForIO:
		return "paused (I/O error)"
	}
	return "shut off"
}

// State returns what the domain is doing (virDomainGetState).
func (d *Domain) State() (state State, err error) {
	err = d.with(func(dom *libvirt.Domain) error {
		code, reason, err := dom.GetState()
		state = stateOf(code, reason)
		return err
	})
	return state, about(err, "read the state of domain %s", d.name)
}

func stateOf(code libvirt.DomainState, reason int) State {
	switch code {
	case libvirt.DOMAIN_RUNNING, libvirt.DOMAIN_BLOCKED, libvirt.DOMAIN_SHUTDOWN:
		return Running
	case libvirt.DOMAIN_PAUSED:
		if libvirt.DomainPausedReason(reason) == libvirt.DOMAIN_PAUSED_IOERROR {
			return PausedForIO
		}
		return Paused
	case libvirt.DOMAIN_PMSUSPENDED, libvirt.DOMAIN_CRASHED:
		return Paused
	}
	return ShutOff
}

// PausedForIO says whether QEMU stopped the guest after an I/O error, as it does when the scratch file's file system is full.
func (d *Domain) PausedForIO() (bool, error) {
	state, err := d.State()
	return state == PausedForIO, err
}

// Active says whether the domain has a QEMU, without which there is no job (virDomainIsActive).
func (d *Domain) Active() (active bool, err error) {
	err = d.with(func(dom *libvirt.Domain) error {
		active, err = dom.IsActive()
		return err
	})
	return active, about(err, "ask whether domain %s is running", d.name)
}

// RunID is a number that libvirt assigns to the domain each time it starts, 0 while it is shut off (virDomainGetID). It
// changes when the domain migrates, and may be used again after a reboot of the host.
func (d *Domain) RunID() (id uint, err error) {
	err = d.with(func(dom *libvirt.Domain) error {
		if active, err := dom.IsActive(); err != nil || !active {
			id = 0
			return err
		}
		id, err = dom.GetID()
		return err
	})
	return id, about(err, "ask for the id of domain %s", d.name)
}

// Persistent says whether the domain is defined; a transient one loses its checkpoints' metadata when it stops
// (virDomainIsPersistent).
func (d *Domain) Persistent() (persistent bool, err error) {
	err = d.with(func(dom *libvirt.Domain) error {
		persistent, err = dom.IsPersistent()
		return err
	})
	return persistent, about(err, "ask whether domain %s is persistent", d.name)
}

// Resume resumes a paused guest (virDomainResume); no error if it runs already, ErrNotRunning if it is shut off.
func (d *Domain) Resume() error {
	err := d.with(func(dom *libvirt.Domain) error { return dom.Resume() })
	if err == nil {
		return nil
	}
	if state, stateErr := d.State(); stateErr == nil && state == Running {
		return nil // libvirt: "Requested operation is not valid: domain is already running"
	}
	return about(d.orNotRunning(err), "resume domain %s", d.name)
}

// Allocation returns, in bytes, the virtual size of a disk and what its image occupies on the host
// (virDomainGetBlockInfo). Of a running domain the capacity is QEMU's view.
func (d *Domain) Allocation(target string) (capacity, allocation int64, err error) {
	err = d.with(func(dom *libvirt.Domain) error {
		info, err := dom.GetBlockInfo(target, 0)
		if err == nil {
			capacity, allocation = int64(info.Capacity), int64(info.Allocation)
		}
		return err
	})
	return capacity, allocation, about(err, "read the size of disk %s of domain %s", target, d.name)
}
