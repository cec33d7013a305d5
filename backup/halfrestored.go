package backup

import (
	"encoding/json"
	"fmt"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

// refuseHalfRestored refuses to back up disks that a killed restore in place has left half written:
// the point would show a mixture of two states, be the newest one, and outlive those that are right.
func (r *run) refuseHalfRestored() error {
	data, left, err := r.lock.Mark(repository.MarkHalfRestored)
	if err != nil || !left {
		return err
	}
	var mark struct{ Point string }
	_ = json.Unmarshal(data, &mark) // one that was cut short counts, too
	at := r.Domain
	if mark.Point != "" {
		at += "@" + mark.Point
	}
	return fail.WithHint(fmt.Errorf("a restore in place of domain %s was killed, and its disks hold a mixture of two states", r.Domain),
		"virtbackup restore %s --in-place finishes it; if the disks were repaired in another way, remove %s",
		manifest.ShellWord(at), manifest.ShellWord(r.repo.MarkPath(r.Domain, repository.MarkHalfRestored)))
}
