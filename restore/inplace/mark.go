package inplace

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

// The marks in the domain's directory that tell of a restore in place: of one that has not written
// to the disks yet, and of one that may have.
const (
	markBegun   = "in-place-begun"
	markWriting = repository.MarkHalfRestored
)

// mark is what a restore leaves for the next one, in case it is killed.
type mark struct {
	// At is what was asked for, and Point what that was then: "latest" is another point once
	// the present state was saved.
	At    string `json:"at"`
	Point string `json:"point"`
	// Next is the number that the point of the present state has, 0 if none is made.
	Next  int    `json:"next"`
	Saved string `json:"saved,omitempty"`
	// Disks are the targets that may be half written, and Extras tells whether other files may be.
	Disks  []string `json:"disks,omitempty"`
	Extras bool     `json:"extras,omitempty"`
	// Writing: the disks may be written to already, and hold a mixture. The mark's name says so.
	Writing bool `json:"-"`
	// Autostart: libvirt started the domain with the host before it was switched off.
	Autostart bool `json:"autostart,omitempty"`
	// Dir is where the sockets are.
	Dir  string    `json:"dir,omitempty"`
	Time time.Time `json:"time"`
}

// readMark returns what a killed restore has left. One that cannot be read stands for a
// restore that was writing.
func (r *run) readMark() (m mark, ok bool, err error) {
	data, writing, err := r.lock.Mark(markWriting)
	if err == nil && !writing {
		data, ok, err = r.lock.Mark(markBegun)
	}
	if err != nil || !ok && !writing {
		return mark{}, false, err
	}
	if json.Unmarshal(data, &m) != nil {
		m = mark{}
	}
	m.Writing = writing
	return m, true, nil
}

func (r *run) setMark() error {
	data, err := json.Marshal(r.mark)
	if err != nil {
		return err
	}
	if !r.mark.Writing {
		return r.lock.SetMark(markBegun, data)
	}
	return errors.Join(r.lock.SetDurableMark(markWriting, data), r.lock.ClearMark(markBegun))
}

// clearMark forgets the restore: it is done, or has changed nothing.
func (r *run) clearMark() error {
	return errors.Join(r.lock.ClearMark(markBegun), r.lock.ClearDurableMark(markWriting))
}

// choose finds the point. A killed restore that was asked for the same goes on with the point
// that this was then: the point of the present state, which was made since, is not meant.
func (r *run) choose() error {
	left, marked, err := r.readMark()
	if err != nil {
		return err
	}
	at, err := r.meant(left, marked)
	if err != nil {
		return err
	}
	if r.chosen, err = r.Repository.Find(r.Domain, at); err != nil {
		return err
	}
	r.mark.Dir = left.Dir
	if marked && left.Writing {
		r.result.Resumed, r.mark, r.left = true, left, left.Time
		r.Log.Warn(fmt.Sprintf("a restore of domain %s to %s was killed while it wrote; this one makes up for it, and keeps nothing that was written since",
			r.Domain, left.Point))
	}
	r.mark.At, r.mark.Point, r.mark.Time = r.At, r.chosen.ID, time.Now().UTC()
	return nil
}

// meant returns the point that is asked for, which may be a time or the newest one. Of a domain
// with a killed restore that is the one of the same request then, and of no other request.
func (r *run) meant(left mark, marked bool) (string, error) {
	if _, _, err := manifest.ParsePointID(r.At); err == nil || !marked {
		return r.At, nil
	}
	newest, err := r.Repository.Find(r.Domain, manifest.Latest)
	if left.At == r.At && err == nil && newest.Number() <= max(left.Next, number(left.Point)) {
		return left.Point, nil
	}
	if !left.Writing || left.Point == "" {
		return r.At, nil
	}
	hint := fmt.Sprintf("%s@%s finishes it", r.Domain, left.Point)
	if left.Saved != "" {
		hint += fmt.Sprintf("; %s@%s is the state before", r.Domain, left.Saved)
	}
	return "", fail.Errorf(fail.Usage, hint, "a restore of domain %s to %s was killed at %s: it is not clear what %q means",
		r.Domain, left.Point, manifest.TimeText(left.Time), r.At)
}

// refuseToLeave refuses to leave something half written that a killed restore was writing to: once
// this one is done, nothing would tell of it any more.
func (r *run) refuseToLeave() error {
	what := ""
	for _, target := range r.mark.Disks {
		_, has := r.described.Disk(target)
		if has && !slices.ContainsFunc(r.disks, func(d *disk) bool { return d.Target == target }) {
			what = "disk " + target
		}
	}
	if r.mark.Extras && len(r.Disks) > 0 {
		what = "other files of the domain"
	}
	if what == "" {
		return nil
	}
	return fail.Errorf(fail.Usage, "virtbackup restore "+manifest.ShellWord(r.Domain)+" --in-place, without --disk, of a point that has all of it",
		"a restore of domain %s was killed at %s, and %s may be half written, which this one would leave so", r.Domain, manifest.TimeText(r.left), what)
}

// stillAlone returns an error if another restore was killed while it wrote, since this one was
// prepared: the lock was free meanwhile.
func (r *run) stillAlone() error {
	left, _, err := r.readMark()
	if err == nil && left.Writing && !r.result.Resumed {
		err = fail.Errorf(fail.Other, "begin again", "another restore of domain %s was killed meanwhile, and its disks hold a mixture", r.Domain)
	}
	return err
}

func number(id string) int {
	_, n, err := manifest.ParsePointID(id)
	if err != nil {
		return 0
	}
	return n
}
