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

// connected returns the connection to URI, a new one where libvirtd has ended.
func connected() (*libvirt.Connect, error) {
	connection.Lock()
	defer connection.Unlock()
	if c := connection.Connect; c != nil {
		if isAlive(c) {
			return c, nil
		}
		connection.Connect = nil // not closed: another test may be about to use it, and see its end
	}
	c, err := libvirt.NewConnect(URI)
	if err == nil {
		connection.Connect = c
	}
	return c, err
}

// isAlive tells what a call has found out: the end of libvirtd is not seen before.
func isAlive(c *libvirt.Connect) bool {
	alive, err := c.IsAlive()
	return err == nil && alive
}

// onDomain calls f with the domain of a name, again where libvirtd had ended.
func onDomain(name string, f func(*libvirt.Domain) error) error {
	for again := false; ; again = true {
		c, err := connected()
		if err != nil {
			return err
		}
		d, err := c.LookupDomainByName(name)
		if err == nil {
			err = f(d)
			_ = d.Free()
		}
		if err == nil || again || isAlive(c) {
			return err
		}
	}
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
