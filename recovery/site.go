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
	// AgentTimeout bounds each call to the guest agent; 0 is 10 seconds.
	AgentTimeout time.Duration
	Log          *slog.Logger
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

// Prefix begins the name of every socket and scratch file of this domain and
// repository; by it a later run knows a job of ours.
func (s *Site) Prefix() string {
	return fmt.Sprintf("virtbackup-%.8s-%.8s-", s.Repo.ID(), s.Domain.UUID())
}

// Socket is where QEMU serves the disks for a point.
func (s *Site) Socket(point string) string {
	return filepath.Join(RunDir(s.SocketDir), s.Prefix()+point+".sock")
}

// Scratch is where QEMU saves the old blocks of a disk while a point is made.
func (s *Site) Scratch(point, target string) string {
	return filepath.Join(RunDir(s.ScratchDir), s.Prefix()+point+"-"+target+".scratch")
}

// RunDir is dir, or DefaultRunDir.
func RunDir(dir string) string {
	if dir == "" {
		return DefaultRunDir
	}
	return dir
}

// OurJob returns the backup job of this repository that runs on the domain; ok
// is false where there is none, or one of somebody else. The socket tells:
// nobody else names one like that.
func (s *Site) OurJob() (job xml.Job, ok bool, err error) {
	doc, err := s.Domain.BackupJob()
	if errors.Is(err, hypervisor.ErrNoJob) || errors.Is(err, hypervisor.ErrNoDomain) {
		return job, false, nil
	}
	if err != nil {
		return job, false, err
	}
	job, err = xml.ParseBackup(doc)
	return job, err == nil && s.ours(job.Socket), err
}

// ours tells whether a socket or scratch file is ours.
func (s *Site) ours(path string) bool { return strings.HasPrefix(filepath.Base(path), s.Prefix()) }

// DeleteCheckpoint deletes a checkpoint if it is there and ours.
func (s *Site) DeleteCheckpoint(name string) error {
	doc, err := s.Domain.CheckpointXML(name)
	if errors.Is(err, hypervisor.ErrNoCheckpoint) || errors.Is(err, hypervisor.ErrNoDomain) {
		return nil
	}
	if err != nil {
		return err
	}
	c, err := xml.ParseCheckpoint(doc)
	if err != nil || c.Description != checkpoint.Description(s.Repo.ID(), name) {
		return err
	}
	s.log().Info("deleting checkpoint " + name)
	_, err = checkpoint.Delete(s.Domain, name)
	return err
}

// Survey lists the domain's checkpoints.
func (s *Site) Survey(sizes bool) ([]checkpoint.Checkpoint, error) {
	docs, err := s.Domain.Checkpoints(sizes)
	if err != nil {
		return nil, err
	}
	return checkpoint.Survey(docs, s.Repo.ID(), checkpoint.Sealed(s.Repo, s.Lock.Domain(), s.Domain.UUID()))
}
