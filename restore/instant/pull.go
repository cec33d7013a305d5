package instant

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/diskspace"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/manifest"
)

// pull is the way home of a disk's data.
type pull struct {
	target string
	image  string    // path
	begun  time.Time // when QEMU was asked for it last; zero: not by this process
	begins int       // how often this process has asked

	node    string    // QEMU's name of the image
	flushed time.Time // when QEMU was asked to write its tables last
}

// state is how far a pull is.
type state int

const (
	pulled state = iota
	pulling
	waiting // for a person, for another job, or to be tried again
)

// need says what an image needs of the server.
type need int

const (
	needsNothing need = iota // it stands alone
	needsPull
	needsFlush   // its header says that it stands alone, before its tables do
	needsBacking // the same, and QEMU has ended: what it has not written is in the point alone
	needsPerson  // the disk has another image now, below which this one may be
)

// advance begins a pull that is not under way, and tells how far it is.
func (r *run) advance(p *pull) (state, error) {
	n, err := r.needOf(p)
	switch {
	case err != nil || n == needsNothing:
		return pulled, err
	case n == needsFlush:
		return waiting, r.flush(p)
	case n == needsBacking:
		return waiting, r.giveBack(p.image)
	case n == needsPerson:
		r.once(fmt.Sprintf("disk %s of domain %s has another image than %s now, which needs the point until its data is pulled: after a snapshot, virsh blockcommit %s %s --shallow --active --pivot makes it the disk's image again",
			p.target, r.domain.Name(), p.image, manifest.ShellWord(r.domain.Name()), manifest.ShellWord(p.target)))
		return waiting, nil
	}
	job, err := r.domain.BlockJob(p.target)
	switch {
	case errors.Is(err, hypervisor.ErrNotRunning):
		return waiting, nil // shut off
	case err != nil:
		return waiting, err
	case job.Kind == hypervisor.PullJob:
		r.adopt(p)
		r.Progress(p.target, int64(job.Done), int64(job.Total))
		return pulling, nil
	case job.Kind != "":
		r.once(fmt.Sprintf("disk %s has another job, a %s: its data is pulled when that has ended", p.target, job.Kind))
		return waiting, nil
	}
	return r.begin(p)
}

// needOf tells what an image needs: nothing, if libvirt, its header and its tables say that it stands
// alone. One that is not the image of its disk any more may be below a snapshot.
func (r *run) needOf(p *pull) (need, error) {
	needs, err := r.needs(p.image)
	if err != nil {
		return 0, err
	}
	unsettled, err := r.unsettled(p.image)
	if err != nil {
		return 0, err
	}
	definition, err := parsed(r.domain.XML)
	if err != nil {
		return 0, err
	}
	for _, d := range definition.Disks {
		if d.Target != p.target || d.Source != p.image {
			continue
		}
		switch {
		case needs || len(d.Backing) > 0:
			return needsPull, nil
		case !unsettled:
			return needsNothing, nil
		}
		p.node = d.FormatNode()
		active, err := r.domain.Active()
		if active {
			return needsFlush, err
		}
		return needsBacking, err
	}
	if needs || unsettled {
		return needsPerson, nil
	}
	return needsNothing, nil
}

// flush has QEMU write its tables, unless it was asked a moment ago.
func (r *run) flush(p *pull) error {
	if time.Since(p.flushed) < pause {
		return nil
	}
	p.flushed = time.Now()
	if err := fault.Point("instant: flush"); err != nil {
		return err
	}
	if err := r.domain.FlushNode(p.node); err != nil && !errors.Is(err, hypervisor.ErrNotRunning) {
		// The guest's own flushes do the same.
		r.once(fmt.Sprintf("QEMU was not made to write the tables of %s, which is waited for: %v", p.image, err))
	}
	return nil
}

// begin asks QEMU to pull, unless that has failed a moment ago.
func (r *run) begin(p *pull) (state, error) {
	if time.Since(p.begun) < pause {
		return pulling, nil // it may just have ended
	}
	if p.begins++; p.begins > 1 {
		r.tellFailing(p)
	}
	p.begun = time.Now()
	if err := fault.Point("instant: pull"); err != nil {
		return waiting, err
	}
	err := r.domain.BlockPull(p.target, r.Bandwidth)
	if err == nil || errors.Is(err, hypervisor.ErrNotRunning) {
		return pulling, nil
	}
	// As while a backup of the domain is made, or a snapshot.
	r.once(fmt.Sprintf("the data of disk %s is not pulled yet: %v", p.target, err))
	return waiting, nil
}

// littleSpace is what a pull cannot go on with, in bytes: QEMU asks for 512 KiB at a time, and tables.
const littleSpace = 4 << 20

// usualBegins is how often a pull is begun without a word: each end of the server, which is told, and of
// QEMU's job a moment before libvirt knows of it, takes one.
const usualBegins = 5

// tellFailing says why a pull is begun again, as far as can be told. libvirt says that it has failed to who
// listens to events, and not why.
func (r *run) tellFailing(p *pull) {
	dir := filepath.Dir(p.image)
	if free, _, err := diskspace.Free(dir, false); err == nil && free < littleSpace {
		r.once(fmt.Sprintf("there is no space left in %s: the data of disk %s is pulled when there is", dir, p.target))
	} else if p.begins > usualBegins {
		r.once(fmt.Sprintf("the pull of disk %s ends before all is there, and is begun again until it succeeds", p.target))
	}
}

// adopt makes a pull that an earlier process has begun as fast as this one's would be.
func (r *run) adopt(p *pull) {
	if !p.begun.IsZero() {
		return
	}
	p.begun = time.Now()
	if err := r.domain.PullSpeed(p.target, r.Bandwidth); err != nil { // it may have ended
		r.Log.Debug(err.Error())
	}
}
