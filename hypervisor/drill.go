package hypervisor

import (
	"errors"
	"fmt"
	"io"
	"time"

	"libvirt.org/go/libvirt"
)

// CreateTransient starts a domain that is not defined (virDomainCreateXML). libvirtd itself ends it when this connection is
// closed, as it is when this process is killed (VIR_DOMAIN_START_AUTODESTROY).
func (c *Conn) CreateTransient(doc string) (*Domain, error) {
	d := &Domain{conn: c}
	create := func(conn *libvirt.Connect) error {
		dom, err := conn.DomainCreateXML(doc, libvirt.DOMAIN_START_AUTODESTROY)
		if err != nil {
			return err
		}
		defer func() { _ = dom.Free() }()
		if d.name, err = dom.GetName(); err != nil {
			return err
		}
		d.uuid, err = dom.GetUUIDString()
		return err
	}
	// Never twice; so the connection is tried first, and opened again if necessary.
	if _, err := c.Domains(); err != nil {
		return nil, err
	}
	used, _, err := c.call(create)
	if err != nil {
		return nil, about(err, "start the domain")
	}
	d.maker = used
	return d, nil
}

// Orphaned says whether the connection that the domain was started with is lost, so that libvirtd has
// ended it or does so. A call that has noticed the loss, such as State, comes first.
func (d *Domain) Orphaned() bool {
	d.conn.mu.Lock()
	defer d.conn.mu.Unlock()
	return d.maker != nil && d.maker != d.conn.conn
}

// AgentAnswers asks the guest agent for the time (virDomainGetTime), and waits at most that long, rounded up to whole seconds.
// An agent that refuses to say has answered, too. ErrAgent where there is none, or it is silent; ErrNotRunning and ErrNoDomain
// where the domain is gone.
func (d *Domain) AgentAnswers(timeout time.Duration) error {
	err := d.with(func(dom *libvirt.Domain) error {
		if err := dom.AgentSetResponseTimeout(int(seconds(timeout)), 0); err != nil {
			return err
		}
		_, _, err := dom.GetTime(0)
		return errors.Join(err, dom.AgentSetResponseTimeout(int(libvirt.DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK), 0))
	})
	if hasCode(err, libvirt.ERR_AGENT_COMMAND_FAILED) {
		return nil
	}
	return about(d.agentError(err), "ask the guest agent of domain %s", d.name)
}

// errScreenshotSize says that a screenshot is larger than its reader takes.
var errScreenshotSize = errors.New("the picture is too large")

// Screenshot returns what the first screen of the guest shows (virDomainScreenshot): most bytes at most, in the format that
// libvirt names, image/x-portable-pixmap or image/png.
func (d *Domain) Screenshot(most int) (format string, data []byte, err error) {
	err = d.conn.withRetry(func(conn *libvirt.Connect) error {
		data = nil
		return d.on(conn, func(dom *libvirt.Domain) error {
			stream, err := conn.NewStream(0)
			if err != nil {
				return err
			}
			defer func() { _ = stream.Free() }()
			if format, err = dom.Screenshot(stream, 0, 0); err != nil {
				return err
			}
			if data, err = receive(stream, most); err != nil {
				return errors.Join(err, stream.Abort())
			}
			return stream.Finish()
		})
	})
	return format, data, about(err, "take a screenshot of domain %s", d.name)
}

func receive(stream *libvirt.Stream, most int) (data []byte, err error) {
	part := make([]byte, 256<<10)
	for {
		n, err := stream.Recv(part)
		switch {
		case errors.Is(err, io.EOF) || err == nil && n <= 0:
			return data, nil
		case err != nil:
			return nil, err
		case len(data)+n > most:
			return nil, fmt.Errorf("%w: more than %d bytes", errScreenshotSize, most)
		}
		data = append(data, part[:n]...)
	}
}
