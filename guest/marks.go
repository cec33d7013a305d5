package guest

import (
	"encoding/json"
	"time"

	"github.com/virtbackup/virtbackup/instants"
)

// The marks in the locked directory that say what may have to be undone in the guest.
const (
	markFrozen = "frozen" // its file systems may be frozen
	markPaused = "paused" // an I/O error had paused it when our job was ended
)

// mark is the content of a mark: which run of the domain it refers to, and since when.
type mark struct {
	RunID uint      `json:"run_id"` // hypervisor.Domain.RunID
	Since time.Time `json:"since"`
	// Process has set the mark. In a copy of the repository it may be alive.
	Process instants.Process `json:"process"`
}

// setMark sets a mark. Call it before the action that it marks.
func (d *LockedDomain) setMark(name string) error {
	id, err := d.Domain.RunID()
	if err != nil {
		return err
	}
	self, err := instants.Self()
	if err != nil {
		return err
	}
	data, err := json.Marshal(mark{id, time.Now().UTC(), self})
	if err != nil {
		return err
	}
	return d.Lock.SetMark(name, data)
}

// readMark returns the mark that a dead run has left; ok is false if there is none.
func (d *LockedDomain) readMark(name string) (m mark, ok bool, err error) {
	data, ok, err := d.Lock.Mark(name)
	if err == nil && ok {
		_ = json.Unmarshal(data, &m) // a truncated mark is valid, for an unknown run
		if m.Process.PID != 0 && !d.isDead(m.Process) {
			ok = false // this is a copy of the repository, and the run is alive
		}
	}
	return m, ok, err
}
