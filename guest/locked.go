package guest

import (
	"log/slog"
	"time"

	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/xml"
)

// LockedDomain is a domain, and the directory of its points, which is locked: no other
// run of this repository is alive.
type LockedDomain struct {
	Domain Domain
	Repo   *repository.Repository
	Lock   *repository.Lock
	// SocketDir and ScratchDir are where sockets and scratch files are; "" is
	// DefaultRunDir.
	SocketDir, ScratchDir string
	// Own is the identity of this process's run, "" if it has none.
	Own string
	// AgentTimeout bounds each call to the guest agent; 0 is DefaultAgentTimeout.
	AgentTimeout time.Duration
	// Log may be nil.
	Log *slog.Logger
}

// DefaultAgentTimeout is the time that Windows' VSS allows for a freeze.
const DefaultAgentTimeout = 10 * time.Second

func (d *LockedDomain) log() *slog.Logger {
	if d.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return d.Log
}

// AgentWait is how long to wait for an answer of the guest agent.
func (d *LockedDomain) AgentWait() time.Duration {
	if d.AgentTimeout == 0 {
		return DefaultAgentTimeout
	}
	return d.AgentTimeout
}

// Describe returns the domain as it is now: the live state if it is running.
func (d *LockedDomain) Describe() (xml.Domain, error) { return Describe(d.Domain) }

// Describe returns a domain as it is now: the live state if it is running.
func Describe(d Domain) (xml.Domain, error) {
	doc, err := d.XML()
	if err != nil {
		return xml.Domain{}, err
	}
	return xml.ParseDomain(doc)
}

// Ledger returns the identities that the repository has issued for the domain.
func (d *LockedDomain) Ledger() (*repository.Ledger, error) { return d.Repo.Ledger(d.Lock.Domain()) }
