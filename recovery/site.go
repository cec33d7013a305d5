package recovery

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/virtbackup/virtbackup/checkpoint"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/xml"
)

// DefaultRunDir is where sockets and scratch files go: below the directory that
// belongs to QEMU's user on Debian (libvirt-qemu) and Fedora (qemu), and that
// SELinux lets QEMU make sockets in. libvirt labels the scratch files itself.
const DefaultRunDir = "/var/lib/libvirt/qemu/virtbackup"

// Site is a domain, and the directory of its points, which is locked: no other
// run of ours is alive.
type Site struct {
	Domain *hypervisor.Domain
	Repo   *repository.Repository
	Lock   *repository.Lock
	// SocketDir and ScratchDir are where sockets and scratch files are; "" is
	// DefaultRunDir.
	SocketDir, ScratchDir string
	// Own is the identity of the run that this process makes, "" if it makes none.
	Own string
	// AgentTimeout bounds each call to the guest agent; 0 is 10 seconds.
	AgentTimeout time.Duration
	Log          *slog.Logger

	// busy says that another job holds the domain, once libvirt has waited for it in
	// vain: see ifNotRefused.
	busy *laterError
}

func (s *Site) log() *slog.Logger {
	if s.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Log
}

func (s *Site) agentTimeout() time.Duration {
	if s.AgentTimeout == 0 {
		return 10 * time.Second
	}
	return s.AgentTimeout
}

// NamePrefix begins the name of every socket and scratch file of virtbackup.
const NamePrefix = "virtbackup-"

// Prefix begins the name of every socket and scratch file of this domain and
// repository. The identity of the run's instant follows, which tells whose it is.
func (s *Site) Prefix() string {
	return fmt.Sprintf(NamePrefix+"%.8s-%.8s-", s.Repo.ID(), s.Domain.UUID())
}

// Socket is where QEMU serves the disks for an instant.
func (s *Site) Socket(identity string) string {
	return filepath.Join(RunDir(s.SocketDir), s.Prefix()+identity+".sock")
}

// Scratch is where QEMU saves the old blocks of a disk while a point is made.
func (s *Site) Scratch(identity, target string) string {
	return filepath.Join(RunDir(s.ScratchDir), s.Prefix()+identity+"-"+target+".scratch")
}

// MaxSocketDir is how long the path of a directory for sockets may be, in bytes: with
// Socket's names below it, it has to fit into the 108 bytes of sun_path (unix(7)), the
// last of which is a zero.
const MaxSocketDir = 107 - len("/virtbackup-01234567-01234567-0123456789abcdef.sock")

// RunDir is dir, or DefaultRunDir.
func RunDir(dir string) string {
	if dir == "" {
		return DefaultRunDir
	}
	return dir
}

// OurJob returns the backup job on the domain that is this run's own, or was left by
// one that is dead; ok is false where there is none, or one of somebody else.
func (s *Site) OurJob() (job xml.Job, ok bool, err error) {
	doc, err := s.Domain.BackupJob()
	if errors.Is(err, hypervisor.ErrNoJob) || errors.Is(err, hypervisor.ErrNoDomain) {
		return job, false, nil
	}
	if err != nil {
		return job, false, err
	}
	if job, err = xml.ParseBackup(doc); err != nil {
		return job, false, err
	}
	if s.Own != "" && job.Socket == s.Socket(s.Own) {
		return job, true, nil // the repository may hang, which this run ends for
	}
	ledger, err := s.ledger()
	return job, err == nil && s.ours(ledger, job.Socket), err
}

func (s *Site) ledger() (*repository.Ledger, error) { return s.Repo.Ledger(s.Lock.Domain()) }

// ours tells whether a socket or scratch file is of an instant of this run, or of one
// that is dead. The names of others may look the same: those of a copy of this
// repository do.
func (s *Site) ours(ledger *repository.Ledger, path string) bool {
	rest, ok := strings.CutPrefix(filepath.Base(path), NamePrefix)
	if !ok {
		return false
	}
	parts := strings.FieldsFunc(rest, func(c rune) bool { return c == '-' || c == '.' })
	if len(parts) < 3 {
		return false
	}
	i, ok := ledger.Find(parts[2])
	return ok && s.mayRemove(ledger, i)
}

// mayRemove tells whether what is left of an instant that is not sealed may go: it is
// of this run, or of a run that is dead. No run that holds the lock of this directory is
// alive but this one; one that holds the lock of the directory that this is a copy of
// may be.
func (s *Site) mayRemove(ledger *repository.Ledger, i instants.Instant) bool {
	if s.Own != "" && i.Identity == s.Own {
		return true
	}
	return !ledger.Inherited(i) && s.dead(i.Process)
}

// MayRemove tells whether what is left of an instant that is not sealed may go.
func (s *Site) MayRemove(i instants.Instant) bool {
	ledger, err := s.ledger()
	return err == nil && s.mayRemove(ledger, i)
}

// dead tells whether the run that a process made is over. This process has ended those
// that it made in this directory before.
func (s *Site) dead(p instants.Process) bool {
	self, err := instants.Self()
	return err == nil && p == self || !p.Alive()
}

// DeleteCheckpoint deletes the checkpoint of an instant with its bitmaps, and sees that
// it is gone; libvirt's record of it may be lost. The identity stays: nothing is written
// to the repository, which may be full. After an error bitmaps may be there still, and the
// identity has to be kept: hypervisor.ErrNotRunning and ErrNoDomain, ErrBusy, and others
// of checkpoint.Delete.
func (s *Site) DeleteCheckpoint(i instants.Instant) error {
	doc, err := s.Domain.CheckpointXML(i.CheckpointName())
	switch {
	case errors.Is(err, hypervisor.ErrNoCheckpoint):
		return s.deleteOrphans(i)
	case err != nil:
		return err
	}
	if err := s.prove(doc, i); err != nil {
		return err
	}
	s.log().Info("deleting checkpoint " + i.Point)
	return checkpoint.DeleteForSure(s.Domain, i.CheckpointName())
}

// deleteOrphans deletes bitmaps of an instant whose checkpoint libvirt does not list.
func (s *Site) deleteOrphans(i instants.Instant) error {
	active, err := s.Domain.Active()
	if err != nil {
		return err
	}
	if !active {
		return hypervisor.ErrNotRunning
	}
	guest, err := s.guest()
	if err != nil {
		return err
	}
	return checkpoint.DeleteOrphans(s.Domain, s.Repo.ID(), i, guest.Disks)
}

// RetireCheckpoint deletes the checkpoint of a sealed point, and forgets its identity. The
// caller says so, with the reason.
func (s *Site) RetireCheckpoint(i instants.Instant) error {
	doc, err := s.Domain.CheckpointXML(i.CheckpointName())
	if err == nil {
		err = s.prove(doc, i)
	}
	if err != nil && !errors.Is(err, hypervisor.ErrNoCheckpoint) {
		return err
	}
	s.log().Debug("deleting checkpoint " + i.Point)
	return checkpoint.DeleteIssued(s.Domain, s.Lock, i)
}

// prove sees that the repository has issued the identity of a checkpoint, here. That of
// this run needs no look at the repository, which may hang.
func (s *Site) prove(doc string, i instants.Instant) error {
	c, err := xml.ParseCheckpoint(doc)
	if err != nil {
		return err
	}
	if i.Identity == s.Own && c.Name == i.CheckpointName() && c.Description == checkpoint.Description(s.Repo.ID(), i.Point) {
		return nil
	}
	ledger, err := s.ledger()
	if err != nil {
		return err
	}
	if i, ok := checkpoint.Issued(c, ledger); !ok || ledger.Inherited(i) {
		return fmt.Errorf("checkpoint %s is not deleted: it is not known to be ours", c.Name)
	}
	return nil
}

// Survey lists the domain's checkpoints.
func (s *Site) Survey(sizes bool) ([]checkpoint.Checkpoint, error) {
	docs, err := s.Domain.Checkpoints(sizes)
	if err != nil {
		return nil, err
	}
	ledger, err := s.ledger()
	if err != nil {
		return nil, err
	}
	return checkpoint.Survey(docs, ledger)
}
