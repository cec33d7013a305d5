package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/bounded"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/xml"
)

// Session records what has been done to the guest of a locked domain and has to be undone,
// whatever happens: its file systems may be frozen, a backup job of ours may run, and an
// I/O error may have paused it meanwhile. The session of a run starts empty ([NewSession]);
// [FindLeftover] finds the session of killed runs.
//
// Its methods are for one goroutine at a time, except Starved and ProveJob.
type Session struct {
	d      *LockedDomain
	frozen *freeze // nil: nothing is frozen
	began  bool    // a job may run
	ended  bool    // it is over
	// before is the state of the guest before the job began: a guest that was already paused
	// was not paused by the job.
	before hypervisor.State
	jobMu  sync.Mutex
	job    xml.Job // as libvirt shows it; zero: not asked yet
	marked bool    // the mark markPaused may be set
	// Hung says that the repository hangs: then no mark is written.
	Hung bool
}

// NewSession returns a session in which nothing has been done yet.
func NewSession(d *LockedDomain) *Session { return &Session{d: d} }

// BeginTime bounds the start of a job, during which the guest may be frozen. libvirt itself
// waits 30 s for a job that has come in between.
const BeginTime = 45 * time.Second

// Start records and returns what the guest does before a job begins. Call it before Freeze
// and Begin: a guest that is paused already was not paused by the job.
func (s *Session) Start() (hypervisor.State, error) {
	var err error
	s.before, err = s.d.Domain.State()
	return s.before, err
}

// Begin starts a backup job, whose socket must be that of the domain's Own identity, and a
// checkpoint at the same instant unless checkpointXML is "". It returns the time of the
// instant. Even after an error, the job and the checkpoint may exist: see [Session.End].
func (s *Session) Begin(backupXML, checkpointXML string) (at time.Time, err error) {
	s.began = true
	err = bounded.Within(BeginTime, func() error { return s.d.Domain.BackupBegin(backupXML, checkpointXML) })
	return time.Now().UTC(), err
}

// Job returns the job that Begin has begun, with the names that libvirt has filled in. libvirt
// is asked at the first call, when the guest need not be frozen any more. Goroutines may call it
// side by side.
func (s *Session) Job() (xml.Job, error) {
	s.jobMu.Lock()
	defer s.jobMu.Unlock()
	if len(s.job.Disks) > 0 {
		return s.job, nil
	}
	doc, err := s.d.Domain.BackupJob()
	if err != nil {
		return xml.Job{}, err
	}
	s.job, err = xml.ParseBackup(doc)
	return s.job, err
}

// Began reports whether a job or a checkpoint of this session may exist or have existed.
func (s *Session) Began() bool { return s.began }

// Ended reports whether a job has begun and is over.
func (s *Session) Ended() bool { return s.ended }

// OwnJob returns an error unless the domain's job, by its socket, is this run's.
func (s *Session) OwnJob() error {
	job, ours, err := s.d.OurJob()
	if err == nil && (!ours || job.Socket != s.d.Socket(s.d.Own)) {
		err = fmt.Errorf("%w of this run", hypervisor.ErrNoJob)
	}
	return err
}

// ProveJob proves that this run's own job still protects what it reads. Called after the
// last read, this proves the whole copy. The job must be ours both before and after the
// disks are queried, or they might be the disks of another job.
func (s *Session) ProveJob() error {
	if err := errors.Join(s.OwnJob(), fault.Point("prove")); err != nil {
		return err
	}
	job, err := s.Job()
	if err != nil {
		return err
	}
	var targets []string
	for _, d := range job.Disks {
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
// only after the last read has returned: for a moment after the end of the job the exports
// can still be read, without protection from the guest's writes. Call Wake afterwards.
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
		s.markPaused()
		ctx, cancel := context.WithTimeout(ctx, endTime)
		defer cancel()
		if err := bounded.Within(endTime+time.Second, func() error { return s.d.Domain.EndBackup(ctx) }); err != nil {
			return err
		}
		s.ended = true
		err = fault.Point("job ended")
		s.Settle(ctx)
	}
	for _, path := range files {
		err = errors.Join(err, removeIfExists(path))
	}
	return err
}

// Settle waits until libvirt has taken its labels off the scratch files of a job that has
// ended: else it logs errors about files that are gone. A failure is of no consequence.
func (s *Session) Settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	if err := bounded.Within(settleTime+time.Second, func() error { return s.d.Domain.Settle(ctx) }); err != nil {
		s.d.log().Debug(err.Error())
	}
}

// settleTime bounds what takes libvirt some 50 ms for each disk.
const settleTime = 10 * time.Second

// files returns the paths of the socket, which libvirt leaves, and of the scratch files of
// our job.
func (s *Session) files(job xml.Job, ours bool) (paths []string, err error) {
	if s.d.Own != "" {
		paths = append(paths, s.d.Socket(s.d.Own))
	}
	if !ours || s.d.Own != "" { // the scratch files of this run are removed by who has made them
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

// markPaused sets a mark if the guest is paused, or may be, when our job is about to end: once
// the job is gone nothing else shows that it existed. If this process is killed before it
// wakes the guest, the next run does.
func (s *Session) markPaused() {
	if paused, err := s.paused(); s.Hung || err == nil && !paused {
		return
	}
	s.marked = true
	if err := s.d.setMark(markPaused); err != nil { // the repository may be full; Wake needs no mark
		s.d.log().Warn(err.Error())
	}
}

// paused reports whether an I/O error has paused the guest since the job began.
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

// pausedForIO reports whether an I/O error has paused the guest.
func (d *LockedDomain) pausedForIO() (bool, error) {
	state, err := d.Domain.State()
	return state == hypervisor.PausedForIO, err
}

// ErrStarved says that the guest is paused because one of its writes found no space while
// our job runs: the guest can be resumed only when the job has ended.
var ErrStarved = errors.New("the guest was paused, because one of its writes found no space in the scratch files")

// Starved reports whether the job runs and the guest is paused because a write to one of
// the job's disks found no space.
func (s *Session) Starved() bool {
	if !s.began || s.ended {
		return false
	}
	if paused, err := s.paused(); err != nil || !paused {
		return false
	}
	job, err := s.Job()
	if err != nil {
		return false
	}
	full, err := s.d.Domain.OutOfSpace()
	return err == nil && slices.ContainsFunc(full, func(target string) bool {
		return slices.ContainsFunc(job.Disks, func(d xml.JobDisk) bool { return d.Target == target })
	})
}

// wakeTime is how long it takes until a write that fails again has paused the guest again.
const wakeTime = 200 * time.Millisecond

// ErrPausedAgain says that a guest that was resumed has paused again at once: the reason
// has nothing to do with our job.
var ErrPausedAgain = errors.New("the guest was resumed and has paused again")

// Wake resumes the guest if an I/O error has paused it since the job began, as QEMU does when
// the scratch files cannot grow. The job must have ended. QEMU retries the write, which now
// needs no scratch space. If the cause was something else, such as the guest's own disk, the
// guest pauses again, as it would without us, and the error is ErrPausedAgain.
//
// After any other error the guest may be paused, and the mark stays for the next run.
func (s *Session) Wake() error {
	paused, err := s.paused()
	if err != nil {
		return fmt.Errorf("find out whether the guest has paused during the job: %w", err)
	}
	if paused {
		if err := s.d.Domain.Resume(); err != nil {
			return fmt.Errorf("an I/O error has paused the guest during the job, and it cannot be resumed: %w", err)
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
		return fmt.Errorf("%w: the job is not the cause of the I/O error", ErrPausedAgain)
	}
	return nil
}

func removeIfExists(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
