package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/bounded"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/xml"
)

// Session is what has been done to the guest of a locked domain and has to be undone,
// whatever happens: its file systems may be frozen, a backup job of ours may run, and an
// I/O error may have paused it meanwhile. That of a run begins with nothing ([NewSession]);
// [FindLeftover] finds that of runs that were killed.
//
// Its methods are for one goroutine at a time, but Starved and ProveJob.
type Session struct {
	d      *LockedDomain
	frozen *freeze // nil: nothing is frozen
	began  bool    // a job may run
	ended  bool    // it is over
	// before is what the guest did before the job began: one that was paused then was not
	// paused by the job.
	before hypervisor.State
	job    xml.Job // as libvirt shows it
	marked bool    // the mark markPaused may be set
	// Hung says that the repository hangs: no mark is written then.
	Hung bool
}

// NewSession is one in which nothing has been done yet.
func NewSession(d *LockedDomain) *Session { return &Session{d: d} }

// BeginTime bounds the beginning of a job, during which the guest may be frozen.
// libvirt itself waits 30 s for a job that has come in between.
const BeginTime = 45 * time.Second

// Begin starts a backup job whose socket is that of the domain's Own identity, and a
// checkpoint at the same instant where there is a document for one, and returns the job with
// the names that libvirt has filled in, and the time of the instant. Whatever it returns, the job and the
// checkpoint may be there: see [Session.End].
func (s *Session) Begin(backupXML, checkpointXML string) (job xml.Job, at time.Time, err error) {
	if s.before, err = s.d.Domain.State(); err != nil {
		return job, at, err
	}
	s.began = true
	if err := bounded.Within(BeginTime, func() error { return s.d.Domain.BackupBegin(backupXML, checkpointXML) }); err != nil {
		return job, at, err
	}
	at = time.Now().UTC()
	doc, err := s.d.Domain.BackupJob()
	if err != nil {
		return job, at, err
	}
	s.job, err = xml.ParseBackup(doc)
	return s.job, at, err
}

// Began tells whether a job or a checkpoint of this session may be there, or may have been.
func (s *Session) Began() bool { return s.began }

// Ended tells whether a job has begun and is over.
func (s *Session) Ended() bool { return s.ended }

// OwnJob returns an error unless the domain's job is this run's: its socket tells.
func (s *Session) OwnJob() error {
	job, ours, err := s.d.OurJob()
	if err == nil && (!ours || job.Socket != s.d.Socket(s.d.Own)) {
		err = fmt.Errorf("%w of this run", hypervisor.ErrNoJob)
	}
	return err
}

// ProveJob proves that this run's own job still protects what it reads. Called
// after the last read, that proves all of the copy: nothing is read any more. The
// job has to be ours before and after each disk is asked about, or another job's
// disk would be.
func (s *Session) ProveJob() error {
	if err := errors.Join(s.OwnJob(), fault.Point("prove")); err != nil {
		return err
	}
	var targets []string
	for _, d := range s.job.Disks {
		targets = append(targets, d.Target)
	}
	if err := s.d.Domain.ProveBackup(targets); err != nil {
		return err
	}
	return s.OwnJob()
}

// endTime bounds the end of a job, which takes some 25 ms.
const endTime = time.Minute

// End ends our job, if it runs, and removes its socket and its scratch files. Call it
// only after the last read has returned: a moment after the end of the job the exports can
// still be read without protection from the guest's writes. Wake afterwards.
func (s *Session) End(ctx context.Context) error {
	job, ours, err := s.d.OurJob()
	if err != nil {
		return err
	}
	files, err := s.files(job, ours)
	if err != nil {
		return err
	}
	if ours {
		s.d.log().Debug("ending the backup job")
		s.markPaused()
		ctx, cancel := context.WithTimeout(ctx, endTime)
		defer cancel()
		if err := bounded.Within(endTime+time.Second, func() error { return s.d.Domain.EndBackup(ctx) }); err != nil {
			return err
		}
		s.ended = true
		err = fault.Point("job ended")
	}
	for _, path := range files {
		err = errors.Join(err, removeIfExists(path))
	}
	return err
}

// files are the socket, which libvirt leaves, and the scratch files of our job.
func (s *Session) files(job xml.Job, ours bool) (paths []string, err error) {
	if s.d.Own != "" {
		paths = append(paths, s.d.Socket(s.d.Own))
	}
	if !ours || s.d.Own != "" { // libvirt removes the scratch files of a job that it has begun
		return paths, nil
	}
	ledger, err := s.d.Ledger()
	if err != nil {
		return nil, err
	}
	named := []string{job.Socket}
	for _, d := range job.Disks {
		named = append(named, d.Scratch)
	}
	return slices.DeleteFunc(named, func(path string) bool { return !s.d.IsOurs(ledger, path) }), nil
}

// markPaused notes that the guest is paused, or may be, while our job is about to end: once
// the job is gone nothing else tells that it was there. Should this process be killed before
// it wakes the guest, the next run does.
func (s *Session) markPaused() {
	if paused, err := s.paused(); s.Hung || err == nil && !paused {
		return
	}
	s.marked = true
	if err := s.d.setMark(markPaused); err != nil { // a full repository; this process wakes the guest
		s.d.log().Warn(err.Error())
	}
}

// paused tells whether an I/O error has paused the guest since the job began.
func (s *Session) paused() (bool, error) {
	if s.before == hypervisor.PausedForIO {
		return false, nil
	}
	paused, err := s.d.pausedForIO()
	if errors.Is(err, hypervisor.ErrNoDomain) { // it was transient, and has ended
		return false, nil
	}
	return paused, err
}

// pausedForIO tells whether an I/O error has paused the guest.
func (d *LockedDomain) pausedForIO() (bool, error) {
	state, err := d.Domain.State()
	return state == hypervisor.PausedForIO, err
}

// ErrStarved says that the guest is paused because a write of its found no space while our
// job runs: it goes on only when the job has ended.
var ErrStarved = errors.New("the guest was paused, because a write of its found no space in the scratch files")

// Starved tells whether the guest is paused because a write of its to one of the job's
// disks found no space, and the job runs.
func (s *Session) Starved() bool {
	if !s.began || s.ended {
		return false
	}
	if paused, err := s.paused(); err != nil || !paused {
		return false
	}
	full, err := s.d.Domain.OutOfSpace()
	return err == nil && slices.ContainsFunc(full, func(target string) bool {
		return slices.ContainsFunc(s.job.Disks, func(d xml.JobDisk) bool { return d.Target == target })
	})
}

// wakeTime is how long a write that fails again takes to pause the guest again.
const wakeTime = 200 * time.Millisecond

// ErrPausedAgain says that a guest that was resumed has paused again at once: what it waits
// for has nothing to do with our job.
var ErrPausedAgain = errors.New("the guest was resumed and has paused again")

// Wake resumes a guest that an I/O error has paused since the job began, which must
// have ended: so QEMU does when the scratch files cannot grow. Its write is tried again, and
// needs no scratch space now. Where it was something else, the guest's own disk, the guest
// pauses again, as it would without us, and the error is ErrPausedAgain.
//
// After any other error the guest may be paused, and the note of it stays for the next run.
func (s *Session) Wake() error {
	paused, err := s.paused()
	if err != nil {
		return fmt.Errorf("find out whether the guest has paused during the job: %w", err)
	}
	if paused {
		if err := s.d.Domain.Resume(); err != nil {
			return fmt.Errorf("the guest has paused during the job because of an I/O error, and cannot be resumed: %w", err)
		}
		s.d.log().Info("resumed the guest: an I/O error had paused it while the job ran")
		time.Sleep(wakeTime)
	}
	if s.marked && !s.Hung {
		if err := s.d.Lock.ClearMark(markPaused); err != nil {
			return err
		}
		s.marked = false
	}
	if !paused {
		return nil
	}
	if again, err := s.paused(); err == nil && again {
		if full, _ := s.d.Domain.OutOfSpace(); len(full) > 0 {
			return fmt.Errorf("%w: the storage of %s itself is full", ErrPausedAgain, strings.Join(full, ", "))
		}
		return fmt.Errorf("%w: the I/O error is not that of the job", ErrPausedAgain)
	}
	return nil
}

func removeIfExists(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
