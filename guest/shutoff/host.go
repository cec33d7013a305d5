package shutoff

import (
	"github.com/virtbackup/virtbackup/guest"
)

// Options are what a domain that is shut off may be done.
type Options struct {
	// Exclusive: no other host uses the block devices and network file systems that its images
	// are on, so that they may be opened for writing.
	Exclusive bool
}

// Host is a host whose domains are [Domain]s.
func Host(host guest.Host, options Options) guest.Host { return wrapped{host, options} }

type wrapped struct {
	guest.Host
	options Options
}

func (w wrapped) Domain(name string) (guest.Domain, error) {
	return w.wrap(w.Host.Domain(name))
}

func (w wrapped) DomainByUUID(uuid string) (guest.Domain, error) {
	return w.wrap(w.Host.DomainByUUID(uuid))
}

func (w wrapped) wrap(d guest.Domain, err error) (guest.Domain, error) {
	if err != nil {
		return nil, err
	}
	return &Domain{d, w.options}, nil
}
