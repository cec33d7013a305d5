package fakelibvirt

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/virtbackup/virtbackup/hypervisor"
)

// stateName is the file, in the directory of a domain, with all that libvirt and QEMU know of
// it but the bytes of its disks.
const stateName = "domain.json"

// state is the content of that file.
type state struct {
	UUID        string
	State       hypervisor.State
	Runs        uint
	Frozen      bool
	Checkpoints []recordState
	Disks       []diskState
	Job         *jobState `json:",omitempty"`
}

type recordState struct {
	Name, Description, Parent string
	Created                   int64
	Disks                     []struct{ Target, Bitmap string }
}

type diskState struct {
	Target  string
	Bitmaps map[string]bitmapState
}

type bitmapState struct {
	Dirty          []byte // one for each cluster
	Stored, Broken bool
}

type jobState struct {
	Socket string
	Disks  []struct {
		Target, Scratch string
		Incremental     bool
	}
}

// Load adds a domain that outlives this process, as libvirt and QEMU do. Its disks are the
// files DIR/TARGET.raw, which are mapped. What libvirt knows of it is in DIR/domain.json,
// which is replaced after each call that changes something: where the process is killed, the
// domain stays as the last call has left it. Without that file, the domain is new and has no
// disks. A job that is loaded can be ended, and not be read; the guest does not write while
// one can be read.
//
// Call Close at the end. Only one process at a time may have the domain.
func (h *Host) Load(name, dir string) (*Domain, error) {
	d := h.Define(name, 0)
	d.dir = dir
	text, err := os.ReadFile(filepath.Join(dir, stateName))
	if errors.Is(err, os.ErrNotExist) {
		return d, d.Save()
	}
	var s state
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err == nil {
		err = d.load(s)
	}
	return d, err
}

func (d *Domain) load(s state) error {
	d.uuid, d.state, d.runs, d.frozen = s.UUID, s.State, s.Runs, s.Frozen
	for _, r := range s.Checkpoints {
		loaded := &record{name: r.Name, description: r.Description, parent: r.Parent, created: r.Created}
		for _, rd := range r.Disks {
			loaded.disks = append(loaded.disks, recordDisk{rd.Target, rd.Bitmap})
		}
		d.checkpoints = append(d.checkpoints, loaded)
	}
	for _, ds := range s.Disks {
		data, err := mapFile(d.file(ds.Target))
		if err != nil {
			return err
		}
		loaded := newDisk(ds.Target, data)
		for name, b := range ds.Bitmaps {
			loaded.bitmaps[name] = &bitmap{dirty: bits(b.Dirty), stored: b.Stored, broken: b.Broken}
		}
		d.disks = append(d.disks, loaded)
	}
	if s.Job == nil {
		return nil
	}
	d.job = &job{socket: s.Job.Socket}
	for _, jd := range s.Job.Disks {
		loaded := jobDisk{target: jd.Target, scratch: jd.Scratch, incremental: jd.Incremental}
		if disk := d.disk(jd.Target); disk != nil {
			loaded.saved = make([]bool, clusters(len(disk.data)))
		}
		d.job.disks = append(d.job.disks, loaded)
	}
	return nil
}

// Save writes what was done to the domain without libvirt, such as writes of the guest.
func (d *Domain) Save() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.save()
}

// save replaces the file. A domain that was not loaded has none.
func (d *Domain) save() error {
	if d.dir == "" {
		return nil
	}
	text, err := json.Marshal(d.toState())
	if err != nil {
		return err
	}
	temporary := filepath.Join(d.dir, "."+stateName)
	if err := os.WriteFile(temporary, text, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, filepath.Join(d.dir, stateName))
}

func (d *Domain) toState() state {
	s := state{UUID: d.uuid, State: d.state, Runs: d.runs, Frozen: d.frozen}
	for _, r := range d.checkpoints {
		saved := recordState{Name: r.name, Description: r.description, Parent: r.parent, Created: r.created}
		for _, rd := range r.disks {
			saved.Disks = append(saved.Disks, struct{ Target, Bitmap string }{rd.target, rd.bitmap})
		}
		s.Checkpoints = append(s.Checkpoints, saved)
	}
	for _, disk := range d.disks {
		saved := diskState{Target: disk.target, Bitmaps: map[string]bitmapState{}}
		for name, b := range disk.bitmaps {
			saved.Bitmaps[name] = bitmapState{octets(b.dirty), b.stored, b.broken}
		}
		s.Disks = append(s.Disks, saved)
	}
	if d.job != nil {
		s.Job = &jobState{Socket: d.job.socket}
		for _, jd := range d.job.disks {
			s.Job.Disks = append(s.Job.Disks, struct {
				Target, Scratch string
				Incremental     bool
			}{jd.target, jd.scratch, jd.incremental})
		}
	}
	return s
}

// Close unmaps the disks of a domain that was loaded.
func (d *Domain) Close() error {
	var errs []error
	for _, disk := range d.disks {
		errs = append(errs, unmap(disk.data))
	}
	return errors.Join(errs...)
}

func (d *Domain) file(target string) string { return filepath.Join(d.dir, target+".raw") }

// resized is the content of a disk, of which data is the old one, with that many bytes.
func (d *Domain) resized(target string, data []byte, size int64) ([]byte, error) {
	if d.dir == "" {
		grown := make([]byte, size)
		copy(grown, data)
		return grown, nil
	}
	if err := unmap(data); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(d.file(target), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return nil, err
	}
	return mapFile(d.file(target))
}

func mapFile(path string) (data []byte, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return nil, err
	}
	data, err = syscall.Mmap(int(f.Fd()), 0, int(info.Size()), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", path, err)
	}
	return data, nil
}

func unmap(data []byte) error {
	if data == nil {
		return nil
	}
	return syscall.Munmap(data)
}

func octets(dirty []bool) []byte {
	all := make([]byte, len(dirty))
	for i, d := range dirty {
		if d {
			all[i] = 1
		}
	}
	return all
}

func bits(all []byte) []bool {
	dirty := make([]bool, len(all))
	for i, b := range all {
		dirty[i] = b != 0
	}
	return dirty
}
