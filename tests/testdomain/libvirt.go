package testdomain

import (
	"sync"

	"libvirt.org/go/libvirt"
)

// What tests ask of libvirt over and over goes over a connection of this process: one virsh costs 60 ms of a
// processor, and a test that waits for a state asked for it ten times a second, which was a sixth of the time of
// all tests. What they do once is left to virsh, as people would do it.
var connection struct {
	sync.Mutex
	*libvirt.Connect
}

// connected returns the connection to URI, a new one where libvirtd has been started again.
func connected() (*libvirt.Connect, error) {
	connection.Lock()
	defer connection.Unlock()
	if c := connection.Connect; c != nil {
		if alive, err := c.IsAlive(); err == nil && alive {
			return c, nil
		}
		connection.Connect = nil
		_, _ = c.Close() // a call that is under way has a reference of its own domain
	}
	c, err := libvirt.NewConnect(URI)
	if err == nil {
		connection.Connect = c
	}
	return c, err
}

// onDomain calls f with the domain of a name.
func onDomain(name string, f func(*libvirt.Domain) error) error {
	c, err := connected()
	if err != nil {
		return err
	}
	d, err := c.LookupDomainByName(name)
	if err != nil {
		return err
	}
	defer func() { _ = d.Free() }()
	return f(d)
}

// states are the first words of virsh domstate.
var states = map[libvirt.DomainState]string{
	libvirt.DOMAIN_NOSTATE:     "no",
	libvirt.DOMAIN_RUNNING:     "running",
	libvirt.DOMAIN_BLOCKED:     "idle",
	libvirt.DOMAIN_PAUSED:      "paused",
	libvirt.DOMAIN_SHUTDOWN:    "in",
	libvirt.DOMAIN_SHUTOFF:     "shut",
	libvirt.DOMAIN_CRASHED:     "crashed",
	libvirt.DOMAIN_PMSUSPENDED: "pmsuspended",
}

// StateOf is the first word of virsh domstate of a domain: running, paused, shut, …
func StateOf(name string) (state string, err error) {
	err = onDomain(name, func(d *libvirt.Domain) error {
		s, _, err := d.GetState()
		state = states[s]
		return err
	})
	return state, err
}

// hmp has QEMU of a domain execute a command of its human monitor, and returns what it prints.
func hmp(name, command string) (out string, err error) {
	err = onDomain(name, func(d *libvirt.Domain) error {
		out, err = d.QemuMonitorCommand(command, libvirt.DOMAIN_QEMU_MONITOR_COMMAND_HMP)
		return err
	})
	return out, err
}
