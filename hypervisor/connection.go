// Package hypervisor is the only user of libvirt: connections, domains, backup jobs, checkpoints and the guest agent.
//
// Calls of libvirt cannot be cancelled; most answer in milliseconds, some wait up to 30 s for a lock (ErrBusy). A Conn and
// its Domains are safe for concurrent use.
package hypervisor

import (
	"errors"
	"fmt"
	"net/url"
	"sort"
	"sync"
	"time"

	"libvirt.org/go/libvirt"

	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/panics"
)

const (
	// openLimit bounds virConnectOpen, which waits for ever for a daemon that accepts and does not answer. A daemon that
	// systemd starts on demand answers within a few seconds even on a busy host.
	openLimit = 30 * time.Second
	// reopenLimit is how long a lost connection is tried again: a restart of libvirtd takes 1 to 5 s, most of it spent on
	// reconnecting to the running guests.
	reopenLimit = 20 * time.Second
)

// Conn is a connection to libvirt on this host.
type Conn struct {
	uri string

	mu   sync.Mutex // guards conn and its reference count as the binding sees it
	conn *libvirt.Connect

	reopening sync.Mutex // held while a lost connection is opened anew; taken before mu
}

// Connect opens a connection (virConnectOpen); "" stands for libvirt's own default. As backups are read from a unix socket,
// a URI that leads to another host is refused with ErrRemote. Any other failure is ErrUnreachable.
func Connect(uri string) (*Conn, error) {
	if err := checkLocal(uri); err != nil {
		return nil, err
	}
	conn, err := open(uri, openLimit)
	if err != nil {
		return nil, err
	}
	// The default, or an alias in libvirt.conf, may stand for a remote URI.
	if resolved, err := conn.GetURI(); err == nil {
		if err := checkLocal(resolved); err != nil {
			closeQuietly(conn)
			return nil, err
		}
	}
	return &Conn{uri: uri, conn: conn}, nil
}

// checkLocal refuses a URI whose host part is another host (https://libvirt.org/uri.html: driver[+transport]://[user@][host]).
func checkLocal(uri string) error {
	u, err := url.Parse(uri)
	if err != nil {
		return fmt.Errorf("connect to %q: %w: %w", uri, ErrUnreachable, err)
	}
	switch u.Hostname() {
	case "", "localhost", "127.0.0.1", "::1":
		return nil
	}
	return fmt.Errorf("connect to %s: %w (%s), and disks are read from a socket of this one", uri, ErrRemote, u.Hostname())
}

// open is virConnectOpen with a time limit. After the limit the call goes on in the background, and what it then opens is
// closed.
func open(uri string, limit time.Duration) (*libvirt.Connect, error) {
	var conn *libvirt.Connect
	done := panics.Go(func() (err error) {
		if err := fault.Point("connect"); err != nil {
			return err
		}
		conn, err = libvirt.NewConnect(uri)
		return err
	})
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case err := <-done:
		if err != nil {
			return nil, about(withKind(translate(err), ErrUnreachable), "connect to %s", shown(uri))
		}
		return conn, nil
	case <-timer.C:
		panics.Go(func() error {
			if err := <-done; err == nil {
				closeQuietly(conn)
			}
			return nil
		})
		return nil, fmt.Errorf("connect to %s: %w: no answer within %s", shown(uri), ErrUnreachable, limit)
	}
}

// shown is a URI as error messages show it.
func shown(uri string) string {
	if uri == "" {
		return "libvirt's default URI"
	}
	return uri
}

func closeQuietly(conn *libvirt.Connect) {
	_, _ = conn.Close() // errors are ignored: the socket is closed in any case
}

// Close closes the connection (virConnectClose). Calls under way complete; later ones fail.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		return nil
	}
	_, err := c.conn.Close()
	c.conn = nil
	return about(translate(err), "close the connection to libvirt")
}

// errClosed is the error of a call after Close, which is a bug of the caller.
var errClosed = errors.New("the connection to libvirt is closed")

// acquire returns the connection with a reference of its own, so that a reconnection meanwhile cannot free it.
func (c *Conn) acquire() (*libvirt.Connect, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		return nil, errClosed
	}
	if err := c.conn.Ref(); err != nil {
		return nil, translate(err)
	}
	return c.conn, nil
}

func (c *Conn) release(conn *libvirt.Connect) {
	c.mu.Lock()
	defer c.mu.Unlock()
	closeQuietly(conn)
}

// call runs f on the connection and translates its error.
func (c *Conn) call(f func(*libvirt.Connect) error) (used *libvirt.Connect, lost bool, err error) {
	conn, err := c.acquire()
	if err != nil {
		return nil, false, err
	}
	defer c.release(conn)
	if err = f(conn); err != nil {
		// The client notices a dead daemon only in a call; from then on virConnectIsAlive says so without asking the daemon.
		alive, aliveErr := conn.IsAlive()
		lost = aliveErr != nil || !alive
	}
	return conn, lost, translate(err)
}

// withRetry runs f, and once more on a new connection if the daemon went away meanwhile: a restart of libvirtd leaves
// guests, jobs and NBD servers as they are. For idempotent calls only.
func (c *Conn) withRetry(f func(*libvirt.Connect) error) error {
	used, lost, err := c.call(f)
	if !lost {
		return err
	}
	if reopenErr := c.reopen(used); reopenErr != nil {
		return fmt.Errorf("%w (the connection was lost: %v)", reopenErr, err)
	}
	_, _, err = c.call(f)
	return err
}

// reopen replaces the lost connection, unless another goroutine has done so already.
func (c *Conn) reopen(lost *libvirt.Connect) error {
	c.reopening.Lock()
	defer c.reopening.Unlock()
	c.mu.Lock()
	current := c.conn
	c.mu.Unlock()
	if current != lost {
		return nil
	}
	fresh, err := openAgain(c.uri, reopenLimit)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil { // closed meanwhile
		closeQuietly(fresh)
		return errClosed
	}
	closeQuietly(c.conn)
	c.conn = fresh
	return nil
}

// openAgain tries until the restarted daemon accepts connections.
func openAgain(uri string, limit time.Duration) (*libvirt.Connect, error) {
	end := time.Now().Add(limit)
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		conn, err := open(uri, time.Until(end)+time.Second)
		if err == nil || time.Now().Add(pause).After(end) {
			return conn, err
		}
		time.Sleep(pause)
	}
}

// Versions returns the versions of libvirt's daemon and of QEMU, like "9.0.0" (virConnectGetLibVersion,
// virConnectGetVersion).
func (c *Conn) Versions() (libvirtVersion, qemuVersion string, err error) {
	err = c.withRetry(func(conn *libvirt.Connect) error {
		daemon, err := conn.GetLibVersion()
		if err != nil {
			return err
		}
		qemu, err := conn.GetVersion()
		libvirtVersion, qemuVersion = dotted(daemon), dotted(qemu)
		return err
	})
	return libvirtVersion, qemuVersion, about(err, "ask libvirt for its version")
}

// dotted decodes "major * 1,000,000 + minor * 1,000 + release".
func dotted(version uint32) string {
	return fmt.Sprintf("%d.%d.%d", version/1_000_000, version/1000%1000, version%1000)
}

// Domains returns the names of all domains, running or not, sorted (virConnectListAllDomains).
func (c *Conn) Domains() ([]string, error) {
	var names []string
	err := c.withRetry(func(conn *libvirt.Connect) error {
		names = nil
		domains, err := conn.ListAllDomains(0)
		for i := range domains {
			if name, nameErr := domains[i].GetName(); nameErr == nil {
				names = append(names, name)
			}
			_ = domains[i].Free()
		}
		return err
	})
	sort.Strings(names)
	return names, about(err, "list domains")
}

// Domain looks a domain up by its name (virDomainLookupByName); ErrNoDomain if there is none.
func (c *Conn) Domain(name string) (*Domain, error) {
	d := &Domain{conn: c, name: name}
	err := c.withRetry(func(conn *libvirt.Connect) error {
		dom, err := conn.LookupDomainByName(name)
		if err != nil {
			return err
		}
		defer func() { _ = dom.Free() }()
		d.uuid, err = dom.GetUUIDString()
		return err
	})
	if err != nil {
		return nil, about(err, "look up domain %s", name)
	}
	return d, nil
}

// DomainByUUID looks a domain up by its UUID, which a rename does not change (virDomainLookupByUUIDString); ErrNoDomain if
// there is none.
func (c *Conn) DomainByUUID(uuid string) (*Domain, error) {
	d := &Domain{conn: c}
	err := c.withRetry(func(conn *libvirt.Connect) error {
		dom, err := conn.LookupDomainByUUIDString(uuid)
		if err != nil {
			return err
		}
		defer func() { _ = dom.Free() }()
		if d.name, err = dom.GetName(); err != nil {
			return err
		}
		d.uuid, err = dom.GetUUIDString()
		return err
	})
	if err != nil {
		return nil, about(err, "look up the domain with the UUID %s", uuid)
	}
	return d, nil
}
