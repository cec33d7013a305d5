package backup

import (
	"encoding/json"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

// warnOfHalfRestored warns of disks that a killed restore in place has left half written: the
// point will show that mixture.
func (r *run) warnOfHalfRestored() {
	data, left, err := r.lock.Mark(repository.MarkHalfRestored)
	if err != nil {
		r.warn("%v", err)
	}
	if !left {
		return
	}
	var mark struct{ Point string }
	_ = json.Unmarshal(data, &mark) // one that was cut short counts, too
	at := r.Domain
	if mark.Point != "" {
		at += "@" + mark.Point
	}
	r.warn("a restore in place of this domain was killed, and its disks hold a mixture of two states: virtbackup restore %s --in-place finishes it",
		manifest.ShellWord(at))
}
