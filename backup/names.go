package backup

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/repository"
)

// mostTaken bounds the names that are tried. As each try goes twice as far as
// the one before, that is past some thousand bitmaps.
const mostTaken = 10

// nameTaken says whether a run has failed because an image has a bitmap of the
// name of its checkpoint, which libvirt does not list: metadata of ours that was
// lost together with its point, or a bitmap of somebody else. Whose it is nobody
// can tell, so it stays.
func (r *run) nameTaken(err error) bool {
	return errors.Is(err, hypervisor.ErrCheckpointExists) && len(r.taken) < mostTaken
}

// underAnotherName returns the run that tries a higher number.
func (r *run) underAnotherName() *run {
	_, n, _ := repository.ParsePointID(r.plan.ID)
	n += 1<<len(r.taken) - 1
	r.Log.Info(fmt.Sprintf("an image of the domain has a bitmap named %s already, which libvirt does not list: taking another number", r.plan.ID))
	return &run{
		Request: r.Request, conn: r.conn, dir: r.dir,
		taken:  append(r.taken, fmt.Sprintf("%s%d", repository.PrefixCheck, n)),
		result: Result{Recovered: r.result.Recovered},
	}
}

// addTakenNames adds to the names of points those that cannot be used, although
// neither this domain's points nor its checkpoints have them: found out by
// trying, or used when the domain had another name.
func (r *run) addTakenNames(s *State) error {
	s.Names = append(s.Names, r.taken...)
	for _, c := range s.Checkpoints {
		if c.Ours && c.Sealed && !slices.Contains(s.Names, c.Name) {
			return r.addFormerNames(s)
		}
	}
	if len(s.Names) == len(r.taken) { // the first run under this name
		return r.addFormerNames(s)
	}
	return nil
}

// addFormerNames looks for points that the domain has under another name: a
// rename keeps the UUID, and points stay where they are.
func (r *run) addFormerNames(s *State) error {
	names, err := r.repo.NamesOf(r.domain.UUID())
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(names, func(name string) bool { return name == r.Domain })
	for _, name := range names {
		ids, err := r.repo.PointIDs(name)
		if err != nil {
			return err
		}
		s.Names = append(s.Names, ids...)
	}
	if len(names) > 0 && len(s.Points) == 0 {
		former := strings.Join(names, ", ")
		r.warn("domain %s was called %s when its earlier points were made: they stay under that name and restore, and a new chain begins "+
			"(virsh domrename %s %s goes on with the old one; virtbackup forget %s drops its checkpoints)", r.Domain, former, r.Domain, names[0], names[0])
	}
	return nil
}
